"""The pieces of configs/_base_/schedules, each trained for some steps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import AutocastOptimWrapper
from swin_ext.engine.optim import WarmupStepLR
from swin_ext.models import SwinBackbone
from toy_noisy_training import (
    EPOCH,
    MAX_ITERS,
    MeanValue,
    NoisyModel,
    QuickRunner,
    runner_args,
    train,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
PIECES = {path.stem: path for path in sorted((CONFIGS / '_base_/schedules').glob('*.py'))}
IN_FLAGSHIP = {'adamw', 'no_decay', 'one_cycle', 'amp_fp16'}


def piece(name, **changes):
    """The value that a piece's file defines."""
    value = Config.fromfile(PIECES[name]).to_dict()[name]
    return [dict(value[0], **changes)] if isinstance(value, list) else dict(value, **changes)


def usage(name):
    """The line of config that the comment of a piece's file tells to write."""
    return re.search(r'Use it by\n#   (.*)\n', PIECES[name].read_text())[1]


# As text configs


@pytest.mark.parametrize('config', ['mask_rcnn_swin-s_cmr.py', 'mask_rcnn_swin-nano_cmr.py'])
@pytest.mark.parametrize('name', sorted(set(PIECES) - IN_FLAGSHIP))
def test_piece_joins_our_configs_as_its_comment_says(tmp_path, config, name):
    path = tmp_path / 'config.py'
    path.write_text(f'_base_ = {[str(CONFIGS / config), str(PIECES[name])]}\n{usage(name)}\n')
    cfg = Config.fromfile(path)
    for key in re.findall(r'_base_\.(\w+)', usage(name)):
        value = piece(key)
        holders = [
            cfg.param_scheduler,
            cfg.default_hooks.get(key),
            cfg.optim_wrapper,
            cfg.optim_wrapper.optimizer,
        ]
        assert any(contains(holder, value) for holder in holders), usage(name)
    assert not set(cfg.optim_wrapper.optimizer) & {'_delete_', 'betas'} or name != 'sgd'
    before = Config.fromfile(CONFIGS / config)
    assert cfg.optim_wrapper.clip_grad == before.optim_wrapper.clip_grad
    assert cfg.optim_wrapper.paramwise_cfg.no_decay == before.optim_wrapper.paramwise_cfg.no_decay


def contains(holder, value):
    if isinstance(value, dict) and isinstance(holder, dict):
        return all(key in holder and contains(holder[key], value[key]) for key in value)
    return holder == value


def test_flagship_is_made_of_pieces_of_the_same_values():
    cfg = Config.fromfile(CONFIGS / 'mask_rcnn_swin-s_cmr.py')
    assert IN_FLAGSHIP <= set(cfg)
    assert cfg.optim_wrapper.type == 'AutocastOptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(
        type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05, fused=True
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=10, norm_type=2)


# Learning rates


class TwoParts(NoisyModel):
    """With a second group of parameters, at a tenth of the learning rate."""

    optim_wrapper = dict(
        optimizer=dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=0.01),
        **piece('slow_backbone'),
    )


def lrs_of(recorder):
    return np.array([[group['lr'] for group in groups] for groups in recorder.groups.values()])


def test_one_cycle_peaks_at_the_rate_of_each_group(tmp_path):
    _, recorder = train(
        tmp_path,
        model=TwoParts(),
        optim_wrapper=TwoParts.optim_wrapper,
        param_scheduler=piece('one_cycle', pct_start=0.25),
    )
    names = [group['name'] for group in recorder.groups[1]]
    assert names == ['rest', 'backbone', 'backbone, no decay']
    optimizer = torch.optim.SGD([dict(params=[nn.Parameter(torch.zeros(1))]) for _ in names], 0.1)
    peer = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [0.2, 0.02, 0.02], total_steps=MAX_ITERS, pct_start=0.25, cycle_momentum=False
    )
    expected = []
    for _ in range(MAX_ITERS):
        expected.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        if len(expected) < MAX_ITERS:
            peer.step()
    np.testing.assert_allclose(lrs_of(recorder), expected, rtol=1e-12)
    assert lrs_of(recorder)[2].tolist() == pytest.approx([0.2, 0.02, 0.02])


def test_one_cycle_with_a_warm_up_of_one_iteration(tmp_path):
    """Where upstream divides by zero."""
    _, recorder = train(
        tmp_path,
        model=TwoParts(),
        optim_wrapper=TwoParts.optim_wrapper,
        param_scheduler=piece('one_cycle', pct_start=1 / MAX_ITERS),
    )
    start, end = 0.2 / 25, 0.2 / 25 / 1e4
    falling = np.cos(np.pi * np.arange(1, MAX_ITERS) / (MAX_ITERS - 1))
    expected = [start, *(end + (0.2 - end) * (1 + falling) / 2)]
    np.testing.assert_allclose(lrs_of(recorder)[:, 0], expected, rtol=1e-4, atol=1e-7)


def test_warmup_step_is_at_its_closed_form(tmp_path):
    _, recorder = train(
        tmp_path,
        model=TwoParts(),
        optim_wrapper=TwoParts.optim_wrapper,
        param_scheduler=piece('warmup_step', warmup=0.25),
        train_cfg=dict(max_epochs=5),
    )
    warmup = [0.001, 0.2008, 0.4006, 0.6004, 0.8002]  # 5 of 20 iterations
    factors = warmup + 7 * [1] + 6 * [0.1] + 2 * [0.01]  # 60 % are 12, 90 % are 18
    np.testing.assert_allclose(lrs_of(recorder), np.outer(factors, [0.2, 0.02, 0.02]), rtol=1e-12)


@pytest.mark.parametrize(
    'num_steps, warmup, expected',
    [(1000, 100, 100), (3000, 100, 100), (100, 100, 60), (10, 0, 0), (10, 0.2, 2)],
)
def test_warm_up_of_a_number_of_steps(num_steps, warmup, expected):
    """Whatever the length of the run, up to the first milestone."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    scheduler = WarmupStepLR(optimizer, end=num_steps, warmup=warmup)
    factors = [scheduler.factor(step) for step in range(round(0.6 * num_steps))]
    rising = [0.001 + 0.999 * step / expected for step in range(expected)]
    assert factors == pytest.approx(rising + [1.0] * (len(factors) - expected))


@pytest.mark.parametrize(
    'options',
    [dict(warmup=0.7), dict(milestones=(0.9, 0.6)), dict(milestones=(8, 11)), dict(warmup=-1)],
)
def test_warmup_step_takes_fractions_that_rise(options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    with pytest.raises(ValueError, match='must rise from 0 to 1; they are fractions of the run'):
        WarmupStepLR(optimizer, end=10, **options)


@pytest.mark.parametrize(
    'name, expected', [('one_cycle', [0.2 / 25, 0.2 / 25e4]), ('warmup_step', [0.0002, 0.002])]
)
def test_max_epochs_of_the_command_line_reaches_the_schedule(tmp_path, name, expected):
    cfg = Config(
        dict(
            max_epochs=12,
            **runner_args(
                tmp_path,
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.2)),
                param_scheduler=piece(name),
                default_hooks=dict(checkpoint=None),
            ),
        )
    )
    cfg.merge_from_dict(dict(max_epochs=10))
    runner = QuickRunner.from_cfg(cfg)
    lrs = []
    runner.register_hook(LRs(lrs))
    runner.train()
    assert len(lrs) == 10 * EPOCH
    assert [lrs[0], lrs[-1]] == pytest.approx(expected)


class LRs(Hook):
    def __init__(self, lrs):
        self.lrs = lrs

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.lrs.append(runner.optim_wrapper.get_lr()['lr'][0])


@pytest.mark.parametrize('name', ['eta_max', 'total_steps'])
def test_one_cycle_takes_no_second_peak_or_length(tmp_path, name):
    with pytest.raises(ValueError, match=f'takes no {name}'):
        train(tmp_path, param_scheduler=piece('one_cycle', **{name: 5}))


def test_plateau_of_validations_reduces_the_rate(tmp_path):
    # One validation an iteration. 0.1 is the best; then four that are not better by 0.001.
    values = [0.1, 0.1, 0.1005, 0.0, 0.1009, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2]
    _, recorder = train(
        tmp_path,
        param_scheduler=piece('reduce_on_plateau', monitor='toy/value'),
        train_cfg=dict(val_interval=1),
        val_evaluator=[MeanValue(values)],
    )
    third = 0.01 / 3
    expected = 5 * [0.01] + 5 * [third] + 2 * [third / 3]
    assert [lr for (lr,) in lrs_of(recorder)] == pytest.approx(expected)


# Parameter groups


class SwinAndHead(BaseModel):
    def __init__(self, arch):
        super().__init__()
        self.backbone = SwinBackbone(arch=arch, drop_path_rate=0.0)
        self.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8), nn.Conv2d(8, 1, 1))

    def forward(self, inputs, mode):
        raise NotImplementedError


TINY = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def by_name(model, optim_wrapper):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group['lr'], group['weight_decay'])
        for group in optim_wrapper.optimizer.param_groups
        for parameter in group['params']
    }


def build(model, optimizer='adamw', optim_wrapper=(), **paramwise_cfg):
    cfg = dict(optimizer=piece(optimizer), **dict(optim_wrapper))
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type='GroupedOptimWrapperConstructor',
            optim_wrapper_cfg=cfg,
            paramwise_cfg=paramwise_cfg,
        )
    )
    return constructor(model)


def test_groups_have_what_upstreams_gave_to_each_parameter():
    model = SwinAndHead(TINY)
    upstream = DefaultOptimWrapperConstructor(
        dict(optimizer=piece('adamw')),
        dict(
            norm_decay_mult=0.0,
            custom_keys=dict(
                absolute_pos_embed=dict(decay_mult=0.0),
                relative_position_bias_table=dict(decay_mult=0.0),
            ),
        ),
    )(model)
    ours = build(model, **piece('no_decay')['paramwise_cfg'])
    assert by_name(model, ours) == by_name(model, upstream)
    assert len(upstream.optimizer.param_groups) > 40 and len(ours.optimizer.param_groups) == 2


@pytest.mark.parametrize('version', [1, 2])
def test_slow_backbone_and_no_decay_go_together(version):
    model = SwinAndHead(dict(TINY, version=version))
    model.backbone.patch_embed.requires_grad_(False)  # frozen parameters get their group, too
    ours = by_name(
        model,
        build(
            model, **piece('no_decay')['paramwise_cfg'], **piece('slow_backbone')['paramwise_cfg']
        ),
    )
    assert set(ours) == {name for name, _ in model.named_parameters()}
    without = re.compile(r'norm|head\.1\.|relative_position_bias_table|logit_scale|cpb_mlp')
    for name, (lr, weight_decay) in ours.items():
        assert lr == pytest.approx(1e-5 if name.startswith('backbone.') else 1e-4), name
        assert weight_decay == (0.0 if without.search(name) else 0.05), name
    special = 'cpb_mlp' if version == 2 else 'relative_position_bias_table'
    assert any(special in name for name in ours)


def test_longest_beginning_of_a_name_counts():
    model = NoisyModel()
    ours = by_name(model, build(model, 'sgd', lr_mult={'backbone': 0.1, 'backbone.0': 0.5}))
    assert ours == {
        'backbone.0.weight': (0.0025, 1e-4),
        'backbone.0.bias': (0.0025, 1e-4),
        'backbone.1.weight': (0.0005, 0.0),
        'backbone.1.bias': (0.0005, 0.0),
        'head.weight': (0.005, 1e-4),
        'head.bias': (0.005, 1e-4),
    }


@pytest.mark.parametrize(
    'paramwise_cfg, message',
    [
        (
            dict(lr_mult=dict(backbon=0.1, neck=0.1)),
            'neck, with .* model are: data_.*backbone, head',
        ),
        (
            dict(custom_keys=dict(norm=dict(decay_mult=0))),
            'custom_keys, but .* lr_mult and no_decay',
        ),
    ],
)
def test_wrong_options_of_groups_are_refused(paramwise_cfg, message):
    with pytest.raises(ValueError, match=message):
        build(NoisyModel(), **paramwise_cfg)


@pytest.mark.parametrize('key', ['lr', 'weight_decay'])
def test_groups_need_what_they_multiply(key):
    optimizer = piece('sgd')
    del optimizer[key]
    with pytest.raises(ValueError, match=f'Set optim_wrapper.optimizer.{key}'):
        OPTIM_WRAPPER_CONSTRUCTORS.build(
            dict(type='GroupedOptimWrapperConstructor', optim_wrapper_cfg=dict(optimizer=optimizer))
        )


# Updates


class Line(BaseModel):
    """Least squares without anything random."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, inputs, mode):
        x = torch.stack(list(inputs))
        return dict(loss=(self.layer(x)[:, 0] - x[:, 0]).square().mean())


class Points(Dataset):
    metainfo = {}

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 16, 1.0]))


@pytest.mark.parametrize('optimizer', ['adamw', 'sgd'])
def test_accumulation_equals_larger_batches(tmp_path, optimizer):
    weights = []
    for batch_size, options in [(8, {}), (2, piece('gradient_accumulation'))]:
        runner, _ = train(
            tmp_path / str(batch_size),
            model=Line(),
            train_cfg=dict(max_epochs=4),
            train_dataloader=dict(dataset=Points(), batch_size=batch_size),
            val_cfg=None,
            val_dataloader=None,
            val_evaluator=None,
            optim_wrapper=dict(options, optimizer=piece(optimizer, lr=0.1)),
        )
        weights.append(torch.cat([p.flatten() for p in runner.model.parameters()]))
    torch.testing.assert_close(*weights)
    assert weights[0].abs().max() > 0.1


class Weights(Hook):
    """Keeps the head's weight after each update and in each validation."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.trained, self.validated = [], []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.trained.append(runner.model.head.weight.detach().double().numpy().copy())

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.validated.append(runner.model.head.weight.detach().double().numpy().copy())


def test_ema_is_the_recurrence_and_what_is_validated(tmp_path):
    weights = Weights()
    runner, _ = train(
        tmp_path,
        default_hooks=dict(ema=piece('ema', gamma=3)),
        custom_hooks=[weights],
        train_cfg=dict(val_interval=100),
    )
    expected = weights.trained[0]
    for step, trained in enumerate(weights.trained[1:], 1):
        expected = expected + max(2e-4, 3 / (3 + step)) * (trained - expected)
    assert len(weights.validated) == 4  # batches of the one validation
    for validated in weights.validated:
        np.testing.assert_allclose(validated, expected, rtol=1e-5)
    assert np.abs(weights.trained[-1] - expected).max() > 1e-3
    np.testing.assert_array_equal(runner.model.head.weight.detach(), weights.trained[-1])


# Mixed precision


def log_of(runner):
    return next(Path(runner.work_dir).glob('*/*.log')).read_text()


@pytest.mark.parametrize('name, on_cpu', [('amp_fp16', 'float32'), ('amp_bf16', 'bfloat16')])
def test_mixed_precision_trains_on_a_cpu(tmp_path, name, on_cpu, monkeypatch):
    monkeypatch.setattr('swin_ext.engine.optim.autocast_optim_wrapper.get_device', lambda: 'cpu')
    runner, recorder = train(tmp_path, optim_wrapper=piece(name), log_level='INFO')
    assert runner.model.dtypes == {getattr(torch, on_cpu)}
    assert {p.dtype for p in runner.model.parameters()} == {torch.float32}
    assert np.isfinite(list(recorder.losses.values())).all()
    says = 'on this cpu training is in float32' in log_of(runner)
    assert says == (name == 'amp_fp16')


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('name, dtype', [('amp_fp16', 'float16'), ('amp_bf16', 'bfloat16')])
def test_mixed_precision_on_cuda(tmp_path, name, dtype):
    model = NoisyModel()
    runner, _ = train(tmp_path, model=model, optim_wrapper=piece(name))
    assert model.dtypes == {getattr(torch, dtype)}
    scale = runner.optim_wrapper.state_dict()['loss_scaler']
    assert bool(scale) == (name == 'amp_fp16')


def optimizer_of(parameter):
    return torch.optim.SGD([parameter], lr=0.1)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(dtype='float32'), "dtype='float32' must be .* set optim_wrapper.type='OptimWrapper'"),
        (dict(loss_scale='static'), "loss_scale='static' must be 'dynamic', a number"),
        (dict(loss_scale=-1), 'loss_scale=-1 must be'),
    ],
)
def test_wrong_options_of_mixed_precision_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        AutocastOptimWrapper(optimizer=optimizer_of(nn.Parameter(torch.zeros(1))), **options)


def test_loss_is_scaled_for_float16_alone(monkeypatch):
    """With a stand-in for the device: scaling is arithmetic that CPUs can do, too."""
    monkeypatch.setattr('swin_ext.engine.optim.autocast_optim_wrapper.get_device', lambda: 'cuda')
    enabled = []
    monkeypatch.setattr(
        'swin_ext.engine.optim.autocast_optim_wrapper.GradScaler',
        lambda **kwargs: enabled.append(kwargs),
    )
    for options in (dict(), dict(loss_scale=512.0), dict(dtype='bfloat16')):
        wrapper = AutocastOptimWrapper(
            optimizer=optimizer_of(nn.Parameter(torch.zeros(1))), **options
        )
        assert wrapper.enabled
    assert enabled == [
        dict(enabled=True),
        dict(init_scale=512.0, enabled=True),
        dict(enabled=False),
    ]
