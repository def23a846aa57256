"""A training that is killed at any moment is resumed, and ends as if it had not been."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import re
import time
import zipfile
from pathlib import Path

import pytest
import torch

from swin_ext.utils import files
from toy_training import make_runner

NUM_ITERATIONS = 60
NUM_PASSES = 120  # 60 of training, and 10 in each of 6 validations
PROGRESS = 'progress'  # file with the number of forward passes
SECONDS_PER_WRITE = 0.0001  # slows the disk down, for kills to come amid saves


def train(work_dir: Path, resume: bool) -> None:
    """Train 60 iterations of about 10 ms, with 12 periodic and up to 6 best checkpoints."""
    torch.set_num_threads(1)

    class SlowDisk(files.WholeWrites):
        def write(self, data):
            time.sleep(SECONDS_PER_WRITE)
            return super().write(data)

    files.WholeWrites = SlowDisk
    runner = make_runner(
        work_dir,
        max_epochs=6,
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
        (work_dir / PROGRESS).write_text(str(next(calls)))
        time.sleep(0.008)
        return forward(*args, **kwargs)

    runner.model.forward = slow_forward
    runner.train()


@pytest.fixture(scope='module')
def start():
    """Starts `train` in a process which need not import everything anew."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['swin_ext', 'pytest'])

    def start(work_dir: Path, resume: bool):
        process = context.Process(target=train, args=(work_dir, resume))
        process.start()
        return process

    return start


@pytest.fixture(scope='module')
def uninterrupted(start, tmp_path_factory):
    """Work dir of a training that nobody killed."""
    work_dir = tmp_path_factory.mktemp('uninterrupted')
    process = start(work_dir, False)
    process.join()
    assert process.exitcode == 0
    return work_dir


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


def kill_amid(process, work_dir: Path, passes: int, seconds: float, in_save: bool) -> bool:
    """Kill `seconds` after that many forward passes or, if asked, within the next save after that.

    Returns:
        Whether an unfinished file was there at the kill.
    """
    while process.is_alive() and passes_done(work_dir) < passes:
        time.sleep(0.001)
    process.join(seconds)
    if in_save:
        while process.is_alive() and not list(work_dir.glob('*.saving')):
            time.sleep(0.0002)
        time.sleep(seconds)
    process.kill()
    process.join()
    return bool(list(work_dir.glob('*.saving')))


def survive(start, uninterrupted, tmp_path, num_kills: int) -> None:
    rng = random.Random(num_kills)
    num_early = num_in_save = num_late = 0
    for kill in range(num_kills):
        work_dir = tmp_path / str(kill)
        process = start(work_dir, False)
        num_in_save += kill_amid(
            process,
            work_dir,
            rng.randint(1, NUM_PASSES),
            rng.random() * 0.03,
            in_save=kill % 2 == 0,
        )
        num_late += process.exitcode == 0
        assert process.exitcode in (0, -9)
        assert_all_whole(work_dir)
        num_early += not (work_dir / 'last_checkpoint').exists()
        process = start(work_dir, True)
        process.join()
        assert process.exitcode == 0, f'kill number {kill}'
        assert_all_whole(work_dir)
        (final, files), (expected, expected_files) = state_of(work_dir), state_of(uninterrupted)
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


def test_some_kills(start, uninterrupted, tmp_path):
    survive(start, uninterrupted, tmp_path, 4)


@pytest.mark.slow
def test_many_kills(start, uninterrupted, tmp_path):
    survive(start, uninterrupted, tmp_path, 40)
