"""A training that is killed at any moment is resumed, and ends as if it had not been."""

from __future__ import annotations

import functools
import itertools
import multiprocessing
import os
import random
import re
import signal
import socket
import time
import zipfile
from pathlib import Path

import pytest
import torch

from swin_ext.utils import files
from toy_training import make_runner

NUM_ITERATIONS = 30
# By number of ranks: 30 of training and, if DDP's wrapper is not passed by, 10 of each validation.
NUM_PASSES = {1: 60, 2: 30}
LAST_ITERATION = {1: 50, 2: 30}  # its pass: a validation and saves follow
PROGRESS = 'progress'  # file with the number of forward passes of rank 0
SECONDS_PER_WRITE = 0.0001  # slows the disk down, for kills to come amid saves
SECONDS_OF_OTHERS = 60  # in which ranks end whose partner was killed


def train(
    work_dir: Path, resume: bool, rank: int, num_ranks: int, port: int, end_in: int | None
) -> None:
    """Train 30 iterations of about 10 ms, with 6 periodic and up to 3 best checkpoints.

    Args:
        end_in: Number of the forward pass in which the process kills itself.
    """
    torch.set_num_threads(1)
    work_dir.mkdir(exist_ok=True)
    os.chdir(work_dir)  # where ranks exchange results
    if num_ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(num_ranks),
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )
        if 'lo' in dict(map(reversed, socket.if_nameindex())):
            os.environ['GLOO_SOCKET_IFNAME'] = 'lo'

    class SlowDisk(files.WholeWrites):
        def write(self, data):
            time.sleep(SECONDS_PER_WRITE)
            return super().write(data)

    files.WholeWrites = SlowDisk
    runner = make_runner(
        work_dir,
        launcher='pytorch' if num_ranks > 1 else 'none',
        max_epochs=3 * num_ranks,
        val_interval=10,
        payload=250_000,
        resume=resume,
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=5, max_keep_ckpts=2),
        hooks=[dict(type='BestCheckpointHook', metric='toy/loss'), dict(type='EMAHook')],
        experiment_name=f'fault-{os.getpid()}',
    )
    forward = runner.model.forward
    calls = itertools.count(1)

    def slow_forward(*args, **kwargs):
        number = next(calls)
        if rank == 0:
            (work_dir / PROGRESS).write_text(str(number))
        if number == end_in:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.008)
        return forward(*args, **kwargs)

    runner.model.forward = slow_forward
    runner.train()


class Run:
    """A training of one or more ranks, each a process that need not import everything anew."""

    context = multiprocessing.get_context('forkserver')

    def __init__(
        self, work_dir: Path, resume: bool, num_ranks: int, ends: dict[int, int] | None = None
    ):
        self.context.set_forkserver_preload(['swin_ext', 'pytest'])
        self.work_dir = work_dir
        with socket.socket() as unused:
            unused.bind(('127.0.0.1', 0))
            port = unused.getsockname()[1]
        self.ranks = [
            self.context.Process(
                target=train,
                args=(work_dir, resume, rank, num_ranks, port, (ends or {}).get(rank)),
            )
            for rank in range(num_ranks)
        ]
        for rank in self.ranks:
            rank.start()

    def wait(self) -> None:
        for rank in self.ranks:
            rank.join()
            assert rank.exitcode == 0

    def kill_amid(self, rank: int, passes: int, seconds: float, in_save: bool) -> bool:
        """Kill a rank `seconds` after so many forward passes or, if asked, amid the next save.

        Returns:
            Whether an unfinished file was there at the kill.
        """
        killed = self.ranks[rank]
        while killed.is_alive() and passes_done(self.work_dir) < passes:
            time.sleep(0.001)
        killed.join(seconds)
        if in_save:
            while killed.is_alive() and not list(self.work_dir.glob('*.saving')):
                time.sleep(0.0002)
            time.sleep(seconds)
        killed.kill()
        return self.end_with(rank)

    def end_with(self, rank: int) -> bool:
        """Wait for the end of the rank that is killed, then of the others; returns as above."""
        killed = self.ranks[rank]
        killed.join()
        amid = bool(list(self.work_dir.glob('*.saving')))
        for other in self.ranks:
            other.join(SECONDS_OF_OTHERS)
            assert other.exitcode is not None, f'waits for rank {rank}, which was killed'
        assert killed.exitcode in (0, -9)
        return amid

    @property
    def was_late(self) -> bool:
        return all(rank.exitcode == 0 for rank in self.ranks)


@pytest.fixture(scope='module')
def uninterrupted(tmp_path_factory):
    """By number of ranks, the work dir of a training that nobody killed."""

    @functools.cache
    def of(num_ranks: int) -> Path:
        work_dir = tmp_path_factory.mktemp('uninterrupted')
        Run(work_dir, False, num_ranks).wait()
        return work_dir

    return of


def state_of(work_dir: Path) -> tuple[dict, list[str]]:
    """Last state of training, and names of the files without the hash of the time in them."""
    final = torch.load(work_dir / f'iter_{NUM_ITERATIONS}.pth', weights_only=False)
    files = [
        re.sub('-[0-9a-f]{8}', '', path.name)
        for path in work_dir.iterdir()
        if path.is_file() and path.suffix != '.py'
    ]
    return final, sorted(files)


def assert_all_whole(work_dir: Path) -> None:
    """The oracle is Python's check of zip files, and `torch.load`."""
    for path in work_dir.glob('*.pth'):
        assert zipfile.ZipFile(path).testzip() is None
        assert torch.load(path, weights_only=False)['state_dict']
    pointer = work_dir / 'last_checkpoint'
    if pointer.exists():
        assert Path(pointer.read_text()).is_file()


def passes_done(work_dir: Path) -> int:
    try:
        return int((work_dir / PROGRESS).read_text() or 0)
    except FileNotFoundError:
        return 0


def survive(expected_dir: Path, tmp_path: Path, num_kills: int, num_ranks: int) -> None:
    """Kill in the first and the last iteration, and at random."""
    rng = random.Random(num_kills)
    num_early = num_in_save = num_late = 0
    for kill in range(num_kills):
        work_dir = tmp_path / str(kill)
        rank = rng.randrange(num_ranks)
        if kill < 2:
            end_in = (1, LAST_ITERATION[num_ranks])[kill]
            run = Run(work_dir, False, num_ranks, {rank: end_in})
            num_in_save += run.end_with(rank)
            assert passes_done(work_dir) == end_in
        else:
            run = Run(work_dir, False, num_ranks)
            num_in_save += run.kill_amid(
                rank,
                rng.randint(1, NUM_PASSES[num_ranks] * 4 // 5),
                rng.random() * 0.03,
                in_save=kill % 3 > 0,
            )
        num_late += run.was_late
        assert_all_whole(work_dir)
        num_early += not (work_dir / 'last_checkpoint').exists()
        Run(work_dir, True, num_ranks).wait()
        assert_all_whole(work_dir)
        (final, files), (expected, expected_files) = state_of(work_dir), state_of(expected_dir)
        assert files == expected_files, f'kill number {kill}'
        for part in ('state_dict', 'ema_state_dict'):
            for name, value in expected[part].items():
                assert torch.equal(final[part][name], value), f'kill number {kill}: {name}'
        for index, state in expected['optimizer']['state'].items():
            for name, value in state.items():
                assert torch.equal(final['optimizer']['state'][index][name], value)
    print(
        f'\n{num_kills} kills: {num_in_save} within a save, {num_early} before the first '
        f'checkpoint, {num_late} after the end.'
    )
    assert num_in_save >= num_kills // 4
    assert num_late + num_early <= num_kills * 3 // 4


def test_some_kills(uninterrupted, tmp_path):
    survive(uninterrupted(1), tmp_path, 6, num_ranks=1)


@pytest.mark.parametrize(
    ('num_kills', 'num_ranks'), [pytest.param(40, 1, marks=pytest.mark.slow), (30, 2)]
)
def test_many_kills(uninterrupted, tmp_path, num_kills, num_ranks):
    survive(uninterrupted(num_ranks), tmp_path, num_kills, num_ranks)
