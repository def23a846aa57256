"""Learning rates for batches of another size."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from unittest import mock

import mmdet
import pytest
from mmengine.config import Config

from swin_ext.engine import SwinExtRunner
from swin_ext.engine.errors import SettingError
from toy_detector import make_runner

NANO = Path(__file__).parents[3] / 'configs/mask_rcnn_swin-nano_cmr.py'
BASE = dict(enable=True, base_batch_size=2)
GROUPED = dict(
    constructor='GroupedOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=0.01, weight_decay=0.05),
    paramwise_cfg=dict(lr_mult=dict(backbone=0.1)),
)


def build(tmp_path, world_size=1, scheduler=None, **kwargs):
    """A runner with optimizer and schedules as `train` builds them; batches are of 4 images."""
    runner = make_runner(tmp_path, param_scheduler=scheduler, **kwargs)
    with mock.patch.object(SwinExtRunner, 'world_size', world_size):
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
    if scheduler:
        runner._train_loop = runner.build_train_loop(runner._train_loop)
        runner.param_schedulers = runner.build_param_scheduler(scheduler)
    return runner


def groups(runner):
    return runner.optim_wrapper.optimizer.param_groups


def rates(runner):
    return [group['lr'] for group in groups(runner)]


@pytest.mark.parametrize('optim_type', ['OptimWrapper', 'AutocastOptimWrapper'])
@pytest.mark.parametrize('world_size', [1, 8])
@pytest.mark.parametrize('counts', [1, 3])
def test_rates_follow_ranks_images_and_accumulation(tmp_path, optim_type, world_size, counts):
    optim_wrapper = dict(GROUPED, type=optim_type, accumulative_counts=counts)
    runner = build(tmp_path, world_size, optim_wrapper=optim_wrapper, auto_scale_lr=BASE)
    factor = world_size * 4 * counts / 2
    found = {group['name'].partition(',')[0]: group['lr'] for group in groups(runner)}
    assert found == pytest.approx(dict(backbone=0.001 * factor, rest=0.01 * factor))


@pytest.mark.parametrize('auto_scale_lr', [None, {}, dict(base_batch_size=2), dict(enable=False)])
def test_rates_stay_unless_enabled(tmp_path, auto_scale_lr):
    assert rates(build(tmp_path, 8, auto_scale_lr=auto_scale_lr)) == [0.01]


def test_peaks_and_warmups_follow(tmp_path):
    cycle = [
        dict(type='GroupOneCycleLR', pct_start=0.25, by_epoch=True, convert_to_iter_based=True)
    ]
    warmup = [dict(type='WarmupStepLR', warmup=0.5, by_epoch=True, convert_to_iter_based=True)]
    for scheduler in (cycle, warmup):
        plain, scaled = (
            build(tmp_path, 8, scheduler, optim_wrapper=GROUPED, auto_scale_lr=auto)
            for auto in (None, BASE)
        )
        for _ in range(7):
            assert rates(scaled) == pytest.approx([16 * rate for rate in rates(plain)])
            for runner in (plain, scaled):
                runner.optim_wrapper.step()
                runner.param_schedulers[0].step()


def test_the_size_that_rates_are_meant_for_is_needed(tmp_path):
    with pytest.raises(SettingError, match='needs auto_scale_lr.base_batch_size'):
        build(tmp_path, auto_scale_lr=dict(enable=True))


def test_the_option_of_the_training_script(tmp_path, monkeypatch):
    """mmdet's script refuses a config without both keys."""
    script = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    argv = [str(script), str(NANO), '--auto-scale-lr', '--work-dir', str(tmp_path)]
    monkeypatch.setattr(sys, 'argv', argv)
    seen = []
    with mock.patch('mmengine.registry.RUNNERS.build', lambda cfg: seen.append(cfg) or mock.Mock()):
        runpy.run_path(str(script), run_name='__main__')
    assert seen[0].auto_scale_lr == dict(enable=True, base_batch_size=4)
    assert Config.fromfile(NANO).train_dataloader.batch_size == 4
