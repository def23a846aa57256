"""Trainings that end after a time: what counts, where schedules stand, what resuming knows."""

from __future__ import annotations

import json
import math
from unittest import mock

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper

from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks import BudgetHook
from toy_training import ToyMetric, make_runner

SLOW_VALIDATION = 1000.0  # seconds


class FakeTime(Hook):
    """An iteration takes a second, and half of one of the processor; a validation takes long.

    Attributes:
        rates: Learning rate of each iteration.
    """

    def __init__(self, stop_at=None):
        self.now, self.rates, self.stop_at = 0.0, [], stop_at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if len(self.rates) == self.stop_at:
            raise KeyboardInterrupt
        self.now += 1.0
        self.rates.append(runner.optim_wrapper.param_groups[0]['lr'])

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.now += SLOW_VALIDATION

    def read(self):
        return dict(wall=self.now, cpu=self.now / 2)


def train(work_dir, seconds, clock='wall', schedulers=None, stop_at=None, resume=False, **kwargs):
    time = FakeTime(stop_at)
    unit = dict(iterations=seconds) if clock == 'iterations' else dict(seconds=seconds, clock=clock)
    budget = dict(param_scheduler=dict(type='BudgetHook', **unit))
    runner = make_runner(work_dir, default_hooks=budget, hooks=[time], resume=resume, **kwargs)
    runner.param_schedulers = schedulers or [
        dict(type='CosineAnnealingLR', by_epoch=False, T_max=20, begin=0, end=20)
    ]
    with mock.patch('swin_ext.engine.training_clock._now', time.read):
        runner.train()
    return runner, time


@pytest.mark.parametrize('clock, seconds, iterations', [('wall', 7, 7), ('cpu', 7, 14)])
def test_training_ends_when_the_time_is_up(tmp_path, clock, seconds, iterations):
    runner, _ = train(tmp_path, seconds, clock)
    assert runner.iter == runner.max_iters == iterations
    cost = json.loads((tmp_path / 'training_cost.json').read_text())
    assert cost['iterations'] == iterations
    assert (cost['wall_s'], cost['cpu_s']) == (iterations, iterations / 2)  # without validations
    assert cost['seconds_per_iteration'] == dict(wall=1, cpu=0.5)[clock]
    assert cost['parameters'] == 2 * 8 + 8 + 8 + 1
    assert cost['peak_memory_mib'] > 50  # Python with torch
    # The end is validated and saved as any other.
    assert runner.message_hub.get_info('last_val_iter') == iterations
    assert (tmp_path / f'iter_{iterations}.pth').is_file()


@pytest.mark.parametrize('seconds', [10, 20, 50])
def test_the_schedule_goes_its_whole_way(tmp_path, seconds):
    """Cosine of a plan of 20 iterations, whatever the number of those that there is time for."""
    runner, time = train(tmp_path, seconds)
    assert runner.iter == seconds
    places = [int(iteration / seconds * 20) for iteration in range(seconds)]
    expected = [0.01 * (1 + math.cos(math.pi * place / 20)) / 2 for place in places]
    assert time.rates == pytest.approx(expected, rel=1e-6)


def test_schedules_in_epochs_and_after_each_other(tmp_path):
    """Two epochs are planned, with a step after the first, and a warm-up of 4 of 20 iterations."""
    schedulers = [
        dict(type='LinearLR', start_factor=0.2, by_epoch=False, begin=0, end=4),
        dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1),
    ]
    _, time = train(tmp_path, 40, schedulers=schedulers)
    warmup = [0.2, 0.2, *[0.2 + 0.8 / 3] * 2, *[0.2 + 1.6 / 3] * 2]
    expected = [*warmup, *[1] * 14, *[0.1] * 20]
    assert time.rates == pytest.approx([0.01 * factor for factor in expected])


def test_a_resumed_training_has_the_rest_of_the_time(tmp_path):
    whole, whole_time = train(tmp_path / 'whole', 14)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / 'resumed', 14, stop_at=9)
    resumed, time = train(tmp_path / 'resumed', 14, resume=True)
    assert len(time.rates) == 14 - 8  # from the checkpoint of iteration 8
    assert resumed.iter == whole.iter == 14
    assert time.rates == pytest.approx(whole_time.rates[8:])
    for a, b in zip(whole.model.parameters(), resumed.model.parameters()):
        assert torch.equal(a, b)


def test_a_finished_training_is_not_prolonged(tmp_path):
    train(tmp_path, 5)
    runner, time = train(tmp_path, 5, resume=True)
    assert runner.iter == 5 and time.rates == []


@pytest.mark.parametrize('iterations', [10, 20, 49])
def test_a_budget_of_iterations(tmp_path, iterations):
    runner, time = train(tmp_path, iterations, 'iterations')
    assert runner.iter == runner.max_iters == iterations
    places = [20 * iteration // iterations for iteration in range(iterations)]
    expected = [0.01 * (1 + math.cos(math.pi * place / 20)) / 2 for place in places]
    assert time.rates == pytest.approx(expected, abs=1e-9)
    assert json.loads((tmp_path / 'training_cost.json').read_text())['wall_s'] == iterations


def test_plateaus_are_left_to_validations(tmp_path):
    """The metric never gets better: a tenth of the rate after three validations."""
    scheduler = dict(
        type='ReduceOnPlateauLR', monitor='toy/loss', rule='less', factor=0.1, patience=1
    )
    metric = ToyMetric([dict(loss=1.0)] * 9)
    _, time = train(tmp_path, 20, schedulers=[scheduler], metric=metric)
    assert time.rates[:15] == [0.01] * 15
    assert time.rates[15:] == pytest.approx([0.001] * 5)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(seconds=0), 'seconds=0 must be above 0'),
        (dict(seconds=-3.0), 'seconds=-3.0 must be above 0'),
        (dict(iterations=0), 'iterations=0 must be above 0'),
        (dict(), 'either seconds or iterations'),
        (dict(seconds=1, iterations=1), 'either seconds or iterations'),
        (dict(seconds=1, clock='sun'), "clock='sun' must be one of"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(SettingError, match=message):
        BudgetHook(**arguments)


def test_a_second_hook_of_schedules_is_refused(tmp_path):
    runner = make_runner(tmp_path, hooks=[dict(type='BudgetHook', seconds=1)])
    with pytest.raises(SettingError, match='belongs to default_hooks.param_scheduler'):
        runner.train()


def test_a_loop_that_ends_with_its_epoch_is_refused(tmp_path):
    runner = make_runner(
        tmp_path, default_hooks=dict(param_scheduler=dict(type='BudgetHook', seconds=1))
    )
    runner._train_loop = dict(type='EpochBasedTrainLoop', max_epochs=1)
    with pytest.raises(SettingError, match='EpochBasedTrainLoop of train_cfg cannot be ended'):
        runner.train()


def test_processor_time_of_workers_would_not_count(tmp_path):
    hook = dict(type='BudgetHook', seconds=1, clock='cpu')
    runner = make_runner(tmp_path, default_hooks=dict(param_scheduler=hook))
    runner._train_dataloader['num_workers'] = 2
    with pytest.raises(SettingError, match=r'num_workers: 2.*num_workers=0'):
        runner.train()


def test_it_counts_what_passes(tmp_path):
    """Not mocked: 0.2 s of the processor, of steps that do nothing but wait for it."""
    import time

    def step(*args, **kwargs):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass

    runner = make_runner(
        tmp_path,
        max_epochs=100,
        val_interval=10**6,
        default_hooks=dict(param_scheduler=dict(type='BudgetHook', seconds=0.2, clock='cpu')),
    )
    with mock.patch.object(OptimWrapper, 'update_params', step):
        runner.train()
    assert 4 <= runner.iter <= 10
