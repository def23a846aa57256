"""A training that is told to end goes on later as the uninterrupted one did, to the last bit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks import PreemptionHook
from toy_noisy_training import MAX_ITERS, make_runner, recorder_of, train
from two_ranks import log_of, run_on_two_ranks

HOOK = dict(type='PreemptionHook')
EMA = dict(ema=dict(type='EMAHook'))


class Signal(Hook):
    """Sends this process a signal within an iteration, or a batch of its validation."""

    def __init__(self, iteration, in_validation=False, number=signal.SIGTERM):
        self.iteration, self.in_validation, self.number = iteration, in_validation, number

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration and not self.in_validation:
            os.kill(os.getpid(), self.number)

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and self.in_validation and batch_idx == 1:
            os.kill(os.getpid(), self.number)


def weights_of(runner) -> dict:
    emas = [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]
    model = getattr(runner.model, 'module', runner.model)
    return dict(model=model.state_dict(), **{f'ema{i}': state for i, state in enumerate(emas)})


def assert_equal_weights(actual: dict, expected: dict) -> None:
    assert actual.keys() == expected.keys()
    for part in expected:
        for name, value in expected[part].items():
            assert torch.equal(actual[part][name], value), (part, name)


def preempted(work_dir: Path, sender: Hook, **changes):
    """Train until the signal ends it; returns the runner and its exit status."""
    runner = make_runner(
        work_dir,
        default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=5), **EMA),
        custom_hooks=[HOOK, sender],
        log_level='WARNING',
        **changes,
    )
    with pytest.raises(SystemExit) as end:
        runner.train()
    return runner, end.value.code


def resumed(work_dir: Path, **changes):
    (checkpoint,) = work_dir.glob('preempted_iter_*.pth')
    assert (work_dir / 'last_checkpoint').read_text() == str(checkpoint)
    return train(work_dir, checkpoint, default_hooks=EMA, custom_hooks=[HOOK], **changes)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return train(tmp_path_factory.mktemp('whole'), default_hooks=EMA)


@pytest.mark.parametrize(
    'sender, last',
    [(Signal(i), i) for i in (1, 3, 4, 6, MAX_ITERS)]
    + [(Signal(i, in_validation=True), i) for i in (6, MAX_ITERS)]
    + [(Signal(2, number=number), 2) for number in (signal.SIGUSR1, signal.SIGUSR2)],
    ids=lambda value: str(getattr(value, '__dict__', value)),
)
def test_one_process(tmp_path, whole, sender, last):
    before = signal.getsignal(sender.number)
    stopped, status = preempted(tmp_path, sender)
    assert status == 75 and f'training ends after iteration {last}.' in log_of(stopped)
    assert 'This is no Slurm job. Start it again with --resume.' in log_of(stopped)
    assert signal.getsignal(sender.number) == before
    first = recorder_of(stopped)
    assert list(first.losses) == list(range(1, last + 1))
    again, second = resumed(tmp_path)
    assert {**first.losses, **second.losses} == whole[1].losses
    assert {**first.validated, **second.validated} == whole[1].validated
    assert len(first.losses) + len(second.losses) == MAX_ITERS
    assert_equal_weights(weights_of(again), weights_of(whole[0]))
    assert not list(tmp_path.glob('preempted_*'))


class SignalAll(Signal):
    """As Slurm does: it signals the workers of data loaders, too, and twice."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 == self.iteration:
            for _ in range(2):
                for child in multiprocessing.active_children():
                    os.kill(child.pid, self.number)
                os.kill(os.getpid(), self.number)
            time.sleep(0.2)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR2], ids=str)
def test_workers_outlive_the_signal(tmp_path, number):
    whole = train(tmp_path / 'whole', num_workers=2, default_hooks=EMA)
    # After the first validation, so that its workers are there as well.
    stopped, status = preempted(tmp_path / 'run', SignalAll(5, number=number), num_workers=2)
    assert status == 75 and list(recorder_of(stopped).losses) == [1, 2, 3, 4, 5]
    for loop in (stopped.train_loop, stopped.val_loop):
        loop.dataloader._iterator = None
    again, _ = resumed(tmp_path / 'run', num_workers=2)
    assert_equal_weights(weights_of(again), weights_of(whole[0]))


def test_workers_end_with_the_training(tmp_path):
    runner, _ = train(tmp_path, num_workers=2, custom_hooks=[HOOK])
    iterator = iter(runner.build_dataloader(runner._train_dataloader or runner.train_dataloader))
    next(iterator)  # from a worker that has started, and knows what to do with signals
    if hasattr(iterator, '_workers'):
        worker = iterator._workers[0]
    else:
        (worker, *_) = multiprocessing.active_children()
    worker.terminate()
    worker.join(5)
    assert worker.exitcode == 0


def test_the_periodic_checkpoint_of_the_iteration_is_enough(tmp_path):
    runner = make_runner(
        tmp_path,
        default_hooks=dict(
            checkpoint=dict(type='AtomicCheckpointHook', interval=5, by_epoch=False)
        ),
        custom_hooks=[HOOK, Signal(5)],
    )
    with pytest.raises(SystemExit):
        runner.train()
    assert [path.name for path in tmp_path.glob('*.pth')] == ['iter_5.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_5.pth')


def test_a_loop_that_cannot_be_resumed_is_left_alone(tmp_path):
    loop = dict(type='EpochBasedTrainLoop', max_epochs=1, val_interval=1)
    runner = make_runner(tmp_path, custom_hooks=[HOOK], train_cfg=loop, log_level='WARNING')
    before = signal.getsignal(signal.SIGTERM)
    runner.train()
    assert signal.getsignal(signal.SIGTERM) == before
    assert 'PreemptionHook does nothing' in log_of(runner)


@pytest.mark.parametrize('name', ['SIGKILL', 'USR1', 'SIGSTOP'])
def test_what_is_no_signal_is_refused(name):
    with pytest.raises(SettingError, match='give names of signals'):
        PreemptionHook(signals=[name])


# Two ranks, of which one is told

OPTIONS = dict(
    launcher='pytorch',
    cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel')),
    default_hooks=dict(checkpoint=dict(type='AtomicCheckpointHook', interval=100)),
    # Three samples for one rank and two for the other, in batches of one
    val_dataloader=dict(
        batch_size=1,
        dataset=dict(type='NoisyDataset'),
        sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    ),
    val_evaluator=[],
)
SENDERS = dict(
    training=(Signal(1), 0, 2),  # acted on an iteration later
    other_rank=(Signal(1), 1, 2),
    before_validation=(Signal(3), 1, 3),
    validation=(Signal(3, in_validation=True), 1, 3),
    last_validation=(Signal(6, in_validation=True), 0, 6),
)


def train_as_rank(rank: int, root: Path) -> dict:
    results = {}
    whole, _ = train(root / 'whole', **OPTIONS)
    results['whole'] = weights_of(whole)['model']
    for name, (sender, who, _) in SENDERS.items():
        hooks = [HOOK, sender] if rank == who else [HOOK]
        runner = make_runner(root / name, **OPTIONS, custom_hooks=hooks)
        status = None
        try:
            runner.train()
        except SystemExit as end:
            status = end.code
        runner.call_hook('close')
        torch.distributed.barrier()
        first = list(recorder_of(runner).losses)
        options = dict(OPTIONS, custom_hooks=[HOOK])
        (checkpoint,) = (root / name).glob('preempted_iter_*.pth')
        torch.distributed.barrier()
        runner, _ = train(root / name, checkpoint, **options)
        results[name] = status, first, weights_of(runner)['model']
        torch.distributed.barrier()
    return results


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_two_ranks(train_as_rank, tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('name', SENDERS)
def test_both_ranks_end_together_and_go_on(ranks, name):
    last = SENDERS[name][2]
    for rank in ranks:
        status, iterations, weights = rank[name]
        assert iterations == list(range(1, last + 1))
        assert status == 75
        for key, value in rank['whole'].items():
            if 'running' not in key:  # statistics of batch norms are of rank 0
                assert torch.equal(weights[key], value), key
