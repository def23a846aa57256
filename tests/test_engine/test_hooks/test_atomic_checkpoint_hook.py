"""What mmengine's CheckpointHook does, AtomicCheckpointHook does too, for a SwinExtRunner."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner

from swin_ext.engine.hooks.atomic_checkpoint_hook import AtomicCheckpointHook
from toy_training import make_runner

UNITS = {'iter': 9, 'epoch': 5}  # steps of a training; the last is in no interval of two


@pytest.fixture
def train(tmp_path):
    """Train to the end of the unit's last step, with a hook of these options."""

    def train(unit, **options):
        hook = dict(interval=2, by_epoch=unit == 'epoch')
        runner = make_runner(
            tmp_path / 'run',
            checkpoint=dict(dict(hook, type='AtomicCheckpointHook'), **options),
            max_epochs=UNITS['epoch'],
            val_interval=1000,
        )
        if unit == 'iter':
            runner._train_loop = dict(
                type='ResumableIterTrainLoop', max_iters=UNITS['iter'], val_interval=1000
            )
        runner.train()
        return runner

    return train


def saved(folder) -> list[str]:
    return sorted((path.name for path in Path(folder).glob('*.pth')), key=number)


def number(name: str) -> int:
    return int(re.search(r'\d+', name)[0])


def load(path) -> dict:
    return torch.load(path, weights_only=False)


@pytest.mark.parametrize('unit', UNITS)
class TestOfEpochsAndIterations:
    def test_at_each_interval_and_at_the_end(self, train, unit):
        runner = train(unit)
        steps = [*range(2, UNITS[unit], 2), UNITS[unit]]
        assert saved(runner.work_dir) == [f'{unit}_{step}.pth' for step in steps]
        last = str(Path(runner.work_dir, f'{unit}_{UNITS[unit]}.pth'))
        assert Path(runner.work_dir, 'last_checkpoint').read_text() == last
        assert runner.message_hub.get_info('last_ckpt') == last
        checkpoint = load(last)
        assert checkpoint['meta'][unit] == UNITS[unit]
        assert checkpoint['message_hub']['runtime_info']['last_ckpt'] == last

    def test_not_at_the_end_if_told_so(self, train, unit):
        runner = train(unit, save_last=False)
        assert saved(runner.work_dir) == [f'{unit}_{i}.pth' for i in range(2, UNITS[unit], 2)]

    @pytest.mark.parametrize('begin', [0, 3, 4])
    def test_from_a_step_on(self, train, unit, begin):
        runner = train(unit, save_begin=begin, interval=1, save_last=False)
        expected = [f'{unit}_{i}.pth' for i in range(max(begin, 1), UNITS[unit] + 1)]
        assert saved(runner.work_dir) == expected

    @pytest.mark.parametrize('keep', [1, 2, 100])
    def test_only_the_newest_are_kept(self, train, unit, keep):
        runner = train(unit, max_keep_ckpts=keep, interval=1)
        last = range(1, UNITS[unit] + 1)[-keep:]
        assert saved(runner.work_dir) == [f'{unit}_{step}.pth' for step in last]
        kept = load(Path(runner.work_dir, f'{unit}_{UNITS[unit]}.pth'))['message_hub']
        assert set(last) <= set(kept['runtime_info']['keep_ckpt_ids'])

    @pytest.mark.parametrize(
        'option, key',
        [('save_optimizer', 'optimizer'), ('save_param_scheduler', 'param_schedulers')],
    )
    @pytest.mark.parametrize('value', [True, False])
    def test_parts_can_be_left_out(self, train, unit, option, key, value):
        runner = train(unit, **{option: value})
        assert (key in load(Path(runner.work_dir, f'{unit}_2.pth'))) == value

    def test_elsewhere_under_the_name_of_the_work_dir(self, train, unit, tmp_path):
        runner = train(unit, out_dir=str(tmp_path / 'out'))
        assert saved(runner.work_dir) == []
        assert f'{unit}_2.pth' in saved(tmp_path / 'out/run')
        named = Path(runner.work_dir, 'last_checkpoint').read_text()
        assert named == str(tmp_path / f'out/run/{unit}_{UNITS[unit]}.pth')

    def test_under_another_name(self, train, unit):
        runner = train(unit, filename_tmpl='test_{}.pth')
        assert f'test_{UNITS[unit]}.pth' in saved(runner.work_dir)

    def test_a_published_one_has_the_keys_and_the_hash(self, train, unit):
        runner = train(unit, published_keys=['meta', 'state_dict'], interval=100)
        (published,) = Path(runner.work_dir).glob(f'{unit}_{UNITS[unit]}-*.pth')
        assert re.search(r'-[0-9a-f]{8}\.pth$', published.name)
        assert set(load(published)) == {'meta', 'state_dict'}


@pytest.mark.parametrize('metric', ['auto', 'toy/loss', ['toy/loss', 'toy/acc']])
def test_the_best_is_another_hooks_task(metric):
    """Upstream's does both in one."""
    with pytest.raises(ValueError, match='AtomicCheckpointHook saves periodically alone'):
        AtomicCheckpointHook(save_best=metric)


def test_two_ways_to_name_a_backend_are_refused_as_upstream():
    with pytest.raises(ValueError, match='cannot be set at the same time'):
        AtomicCheckpointHook(file_client_args=dict(backend='disk'), backend_args=dict())


def test_another_runner_is_refused(tmp_path):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=4)
    runner = make_runner(tmp_path, checkpoint=hook, runner_type=Runner)
    with pytest.raises(ValueError, match='needs a SwinExtRunner, not a Runner: set runner_type'):
        runner.train()
