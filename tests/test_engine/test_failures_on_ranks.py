"""What fails on one of two ranks fails on both, within the time limit of their group."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from mmengine.hooks import Hook

from swin_ext.checkpoint.resume import checkpoint_to_resume
from swin_ext.checkpoint.safe_reading import CheckpointError
from swin_ext.utils import files
from swin_ext.utils.download import DownloadError, fetch_once
from swin_ext.utils.ranks import on_all_ranks, on_main_process
from toy_detector import ToyDetector
from toy_detector import make_runner as make_detector_runner
from toy_training import make_runner
from two_ranks import run_on_two_ranks

FULL = OSError(errno.ENOSPC, 'No space left on device')
HISTORY = dict(type='HistoryHook')
BEST = dict(type='BestCheckpointHook', metric='toy/loss')


class TwoTexts(Exception):
    """Cannot be unpickled from its one argument."""

    def __init__(self, first, second):
        super().__init__(f'{first} {second}')


@contextmanager
def broken(name: str, error: Exception, rank: int, after: int = 0):
    """Let a function, given as module:name, raise on rank 0 from its call number `after` on."""
    module, name = name.split(':')
    owner, _, attribute = name.rpartition('.')
    target = __import__(module, fromlist=['_'])
    target = getattr(target, owner) if owner else target
    original, calls = getattr(target, attribute), []

    def function(*args, **kwargs):
        calls.append(1)
        if rank == 0 and len(calls) > after:
            raise error
        return original(*args, **kwargs)

    with mock.patch.object(target, attribute, function):
        yield


def train(folder: Path, **kwargs):
    kwargs.setdefault('max_epochs', 1)
    runner = make_runner(
        folder,
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='CPUDistributedDataParallel')),
        **kwargs,
    )
    runner.train()


def train_on_nan(folder: Path):
    make_detector_runner(
        folder,
        model=ToyDetector(bad_losses={100: float('nan')}),
        hooks=[dict(type='NonFiniteLossHook', max_consecutive=1)],
        launcher='pytorch',
    ).train()


def save_once(folder: Path, **kwargs):
    """The checkpoint at the end is the only periodic one."""
    checkpoint = dict(type='AtomicCheckpointHook', by_epoch=False, interval=1000)
    train(folder, checkpoint=checkpoint, **kwargs)


def write_weights(folder: Path) -> str:
    import torch

    path = folder.parent / f'{folder.name}.pth'
    torch.save(dict(state_dict={}), path)
    return str(path)


URL = 'http://nowhere.invalid/weights.pth'
NO_NETWORK = DownloadError('no network')
WRITES = 'swin_ext.utils.files:WholeWrites.write'
# Name: (what fails on rank 0, its error, what both ranks do, error on both, its text)
CASES = {
    'resume choice': (
        'swin_ext.checkpoint.resume:_newest_whole',
        PermissionError('work dir'),
        lambda folder: checkpoint_to_resume(str(folder)),
        PermissionError,
        'work dir',
    ),
    'given checkpoint': (
        'swin_ext.checkpoint.resume:check_whole',
        PermissionError('checkpoint'),
        lambda folder: checkpoint_to_resume(str(folder), __file__),
        PermissionError,
        'checkpoint',
    ),
    'reading load_from': (
        'swin_ext.engine.upstream_patches:load_checkpoint_file',
        CheckpointError('damaged'),
        lambda folder: train(folder, load_from=write_weights(folder)),
        CheckpointError,
        'damaged',
    ),
    'download': (
        'swin_ext.utils.download:download',
        NO_NETWORK,
        lambda folder: fetch_once(URL),
        DownloadError,
        'no network',
    ),
    'download of load_from': (
        'swin_ext.utils.download:download',
        NO_NETWORK,
        lambda folder: train(folder, load_from=URL),
        CheckpointError,
        'no network',
    ),
    'clearing the work dir': (
        'swin_ext.engine.runner:remove_unfinished',
        PermissionError('work dir'),
        train,
        PermissionError,
        'work dir',
    ),
    'writing the config': (
        'mmengine.runner.runner:Runner.dump_config',
        FULL,
        train,
        OSError,
        'No space left',
    ),
    'initial weights': (
        'toy_training:ToyModel.init_weights',
        CheckpointError('damaged'),
        train,
        CheckpointError,
        'damaged',
    ),
    'history': (
        'swin_ext.engine.hooks.history_hook:Path.is_file',
        PermissionError('history.csv'),
        lambda folder: train(folder, hooks=[HISTORY]),
        PermissionError,
        'history.csv',
    ),
    'checkpoint amid training': (WRITES, FULL, train, RuntimeError, 'No space left'),
    'checkpoint at the end': (WRITES, FULL, save_once, RuntimeError, 'No space left'),
    'best checkpoint': (
        WRITES,
        FULL,
        lambda folder: save_once(folder, hooks=[BEST]),
        RuntimeError,
        'No space left',
    ),
    'best checkpoints so far': (
        'swin_ext.engine.hooks.best_checkpoint_hook:BestCheckpointHook._restored',
        PermissionError('best_toy_loss.pth'),
        lambda folder: train(folder, hooks=[BEST]),
        PermissionError,
        'best_toy_loss.pth',
    ),
    'file for inference': (
        'swin_ext.engine.hooks.best_checkpoint_hook:write_inference_file',
        FULL,
        lambda folder: train(folder, hooks=[BEST]),
        OSError,
        'No space left',
    ),
    'diagnostic checkpoint': (
        'toy_detector:SwinExtRunner.save_checkpoint',
        FULL,
        train_on_nan,
        RuntimeError,
        'There is no checkpoint of it: [Errno 28] No space left on device',
    ),
    'an error that cannot be sent': (
        'swin_ext.utils.files:os.fsync',
        TwoTexts('no', 'disk'),
        lambda folder: on_main_process(write_text, folder / 'a'),
        Exception,
        'no disk',
    ),
    'anything on all ranks': (
        'swin_ext.utils.files:os.fsync',
        FULL,
        lambda folder: on_all_ranks(write_text, folder.parent / f'{id(folder)}'),
        OSError,
        'No space left',
    ),
}


def write_text(path: Path) -> str:
    with files.replacing_text(path) as file:
        file.write('text')
    return 'written'


def fail_on_rank(rank, folder: Path) -> dict:
    found = {'returned': on_main_process(write_text, folder / 'returned')}
    for name, (function, error, action, kind, _) in CASES.items():
        try:
            with broken(function, error, rank):
                action(folder / name)
        except Exception as raised:
            found[name] = isinstance(raised, kind), f'{type(raised).__name__}: {raised}'
    return found


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_two_ranks(fail_on_rank, tmp_path_factory.mktemp('failures'))


@pytest.mark.parametrize('name', CASES)
def test_both_ranks_fail(ranks, name):
    *_, text = CASES[name]
    for rank in ranks:
        is_of_kind, message = rank[name]
        assert is_of_kind, message
        assert text in message


def test_the_main_process_tells_its_result(ranks):
    assert [rank['returned'] for rank in ranks] == ['written', 'written']


# One process


class Failing(Hook):
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        raise RuntimeError('of the training')


class Closing(Hook):
    def __init__(self, fails=False):
        self.fails, self.closed = fails, 0

    def close(self, runner):
        self.closed += 1
        if self.fails:
            raise OSError('of the terminal')


@pytest.mark.parametrize('how', ['train', 'val', 'train that fails'])
def test_hooks_are_closed_however_a_run_ends(tmp_path, how):
    hooks = [Closing(fails=True), Closing()]
    fails = how.endswith('fails')
    runner = make_runner(tmp_path, hooks=[*hooks, Failing()] if fails else hooks, max_epochs=1)
    if fails:
        with pytest.raises(RuntimeError, match='of the training'):
            runner.train()
    else:
        getattr(runner, how)()
    assert [hook.closed for hook in hooks] == [1, 1]
    assert 'Closing was not closed: OSError' in next(Path(runner.log_dir).glob('*.log')).read_text()


def test_a_training_that_dies_ends_threads_and_gives_the_visualizer_back(tmp_path):
    hooks = [dict(type='GPUStatsHook'), HISTORY, dict(type='NonFiniteLossHook'), Failing()]
    runner = make_runner(tmp_path, hooks=hooks)
    with pytest.raises(RuntimeError, match='of the training'):
        runner.train()
    (stats,) = (hook for hook in runner.hooks if type(hook).__name__ == 'GPUStatsHook')
    assert not stats._sampler.is_alive()
    assert 'history.csv' not in runner.visualizer._vis_backends
    assert not runner.optim_wrapper.guards_updates


def test_hooks_are_closed_where_a_run_never_starts(tmp_path):
    hooks = [dict(type='GPUStatsHook'), HISTORY, dict(type='NonFiniteLossHook')]
    runner = make_runner(tmp_path, hooks=hooks, load_from=str(tmp_path / 'absent.pth'))
    with pytest.raises(FileNotFoundError, match='absent.pth'):
        runner.train()
