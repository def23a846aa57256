"""What configs say of several ranks; tests on two ranks are in test_same_mathematics.py."""

from __future__ import annotations

import logging

import pytest
from mmengine.config import Config
from torch import nn

from swin_ext.config.errors import ConfigError
from swin_ext.config.finalise import finalise_config
from swin_ext.engine.ddp_options import SwinExtDistributedDataParallel, ddp_options, sync_heads
from swin_ext.engine.errors import SettingError


@pytest.mark.parametrize(
    ('cfg', 'expected'),
    [
        ({}, {}),
        (dict(find_unused_parameters=True), dict(find_unused_parameters=True)),
        (
            dict(find_unused_parameters=True, model_wrapper_cfg=dict(static_graph=True)),
            dict(static_graph=True, find_unused_parameters=True),
        ),
        (
            dict(find_unused_parameters=True, model_wrapper_cfg=dict(find_unused_parameters=False)),
            dict(find_unused_parameters=False),
        ),
        (
            dict(find_unused_parameters=True, model_wrapper_cfg=dict(type='Sharded')),
            dict(type='Sharded'),
        ),
    ],
)
def test_options_of_a_config(cfg, expected):
    assert ddp_options(cfg) == dict(dict(type='SwinExtDistributedDataParallel'), **expected)


def test_a_static_graph_and_accumulation_are_refused():
    cfg = dict(model_wrapper_cfg=dict(static_graph=True), optim_wrapper=dict(accumulative_counts=4))
    with pytest.raises(SettingError, match='static_graph=True .*accumulative_counts=4'):
        ddp_options(cfg)


def test_an_unknown_compression_is_refused():
    with pytest.raises(SettingError, match="gradient_compression='int8' .* 'bf16', 'fp16'"):
        SwinExtDistributedDataParallel(nn.Linear(1, 1), gradient_compression='int8')


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (
            dict(model_wrapper_cfg=dict(gradient_compresion='bf16')),
            'Did you mean model_wrapper_cfg.gradient_compression',
        ),
        (dict(model_wrapper_cfg=dict(static_graph='yes')), 'model_wrapper_cfg.static_graph'),
        (
            dict(
                model_wrapper_cfg=dict(type='SwinExtDistributedDataParallel', broadcast_bufers=True)
            ),
            'Did you mean model_wrapper_cfg.broadcast_buffers',
        ),
        (dict(sync_avg_factor='yes'), 'sync_avg_factor'),
        (dict(sync_avg_facter=True), 'Did you mean sync_avg_factor'),
        (dict(sync_bn='tourch'), 'sync_bn'),
        (dict(auto_scale_lr=dict(base_batchsize=4)), 'auto_scale_lr.base_batch_size'),
        (dict(auto_scale_lr=dict(base_batch_size=0)), 'auto_scale_lr.base_batch_size'),
    ],
)
def test_slips_are_found_before_anything_is_built(cfg, message):
    with pytest.raises(ConfigError, match=message):
        finalise_config(Config(cfg))


def test_right_options_pass():
    options = dict(gradient_compression='bf16', static_graph=True, gradient_as_bucket_view=True)
    cfg = Config(dict(model_wrapper_cfg=options, sync_avg_factor=True, sync_bn='torch'))
    assert finalise_config(cfg).model_wrapper_cfg == options


def test_a_model_without_such_heads_is_refused():
    with pytest.raises(SettingError, match='no head of Sequential .* take it out'):
        sync_heads(nn.Sequential(nn.Linear(1, 1)), logging.getLogger())
