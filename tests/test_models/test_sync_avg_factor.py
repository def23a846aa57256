"""Which heads average over ranks; that it is right is in test_engine/test_same_mathematics.py."""

from __future__ import annotations

import copy

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from swin_ext.models.sync_avg_factor import mean_over_ranks, sync_avg_factor
from toy_mask_rcnn import model_config

CASCADE = dict(
    roi_head=dict(
        type='CascadeRoIHead',
        num_stages=2,
        stage_loss_weights=[1, 0.5],
        bbox_head=[dict(type='Shared2FCBBoxHead', in_channels=8, num_classes=3)] * 2,
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7),
            out_channels=8,
            featmap_strides=[4],
        ),
        mask_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=14),
            out_channels=8,
            featmap_strides=[4],
        ),
        mask_head=[dict(type='FCNMaskHead', in_channels=8, num_classes=3)] * 2,
    )
)
DENSE = dict(num_classes=3, in_channels=32, feat_channels=32)


def build(config):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return torch.nn.ModuleDict(
            {name: MODELS.build(ConfigDict(part)) for name, part in config.items()}
        )


@pytest.mark.parametrize(
    ('config', 'synced', 'others'),
    [
        (dict(head=dict(type='RetinaHead', **DENSE)), ['head'], []),
        (dict(head=dict(type='ATSSHead', **DENSE)), [], ['head']),
        (dict(head=dict(type='FCOSHead', **DENSE)), [], ['head']),
        (dict(head=dict(type='FreeAnchorRetinaHead', **DENSE)), [], ['head']),
        (
            CASCADE,
            [f'roi_head.{kind}_head.{i}' for kind in ('bbox', 'mask') for i in range(2)],
            [],
        ),
    ],
)
def test_heads_that_average_in_a_known_way_are_synced(config, synced, others):
    model = build(config)
    assert sync_avg_factor(model) == (synced, others)


def test_twice_is_as_once_and_copies_are_whole():
    model = build(dict(model=model_config()))
    heads = ['model.rpn_head', 'model.roi_head.bbox_head', 'model.roi_head.mask_head']
    assert sync_avg_factor(model) == (heads, [])
    kinds = [type(model.get_submodule(name)) for name in heads]
    state = copy.deepcopy(model.state_dict())
    copied = copy.deepcopy(model)  # as EMAHook does
    assert sync_avg_factor(model) == (heads, [])
    assert [type(model.get_submodule(name)) for name in heads] == kinds
    assert [type(copied.get_submodule(name)) for name in heads] == kinds
    assert state.keys() == copied.state_dict().keys()


@pytest.mark.parametrize(('counts', 'expected'), [([0.0, 5.0], [1.0, 5.0]), ([1.0, 64.0], [1, 64])])
def test_a_count_of_one_process_is_its_own(counts, expected):
    assert mean_over_ranks(torch.tensor(counts)).tolist() == expected


def test_the_mask_loss_of_no_positive_sample_is_zero():
    head = build(dict(head=dict(type='FCNMaskHead', in_channels=8, num_classes=3)))
    sync_avg_factor(head)
    empty = torch.zeros(0, 3, 28, 28, requires_grad=True)
    head = head['head']
    head.get_targets = lambda **kwargs: None
    sampled = [type('Sampled', (), dict(pos_gt_labels=torch.zeros(0, dtype=torch.long)))]
    loss = head.loss_and_target(empty, sampled, [], None)['loss_mask']['loss_mask']
    loss.backward()
    assert loss == 0 and empty.grad is not None
