"""Mask2Former of its authors, converted: mmdet's computes what theirs does."""

from __future__ import annotations

import re
from pathlib import Path

import mmdet.models  # noqa: F401  # registers the detector
import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope

import swin_ext.models.mask2former  # noqa: F401  # the head of our config
from authors_mask2former import HEADS, AuthorsMask2Former
from swin_ext.models.weights.detectron2_mask2former import (
    convert_detectron2_mask2former,
    is_detectron2_mask2former,
)

CONFIGS = Path(__file__).parents[3] / 'configs'
DIM, CHANNELS, LAYERS, CLASSES, QUERIES = 32, (8, 16, 32, 64), (2, 3), 3, 8


def make_mmdet_head():
    cfg = Config.fromfile(CONFIGS / '_base_/models/mask2former_swin-t.py').model.panoptic_head
    cfg.update(
        in_channels=list(CHANNELS),
        feat_channels=DIM,
        out_channels=DIM,
        num_things_classes=CLASSES,
        num_queries=QUERIES,
        positional_encoding=dict(num_feats=DIM // 2, normalize=True),
        train_cfg=None,
    )
    cfg.loss_cls.class_weight = [1.0] * CLASSES + [0.1]
    cfg.pixel_decoder.positional_encoding.num_feats = DIM // 2
    cfg.pixel_decoder.encoder.num_layers, cfg.transformer_decoder.num_layers = LAYERS
    for layer, hidden in (
        (cfg.pixel_decoder.encoder.layer_cfg, 48),
        (cfg.transformer_decoder.layer_cfg, 40),
    ):
        layer.ffn_cfg.update(embed_dims=DIM, feedforward_channels=hidden)
        for name in ('self_attn_cfg', 'cross_attn_cfg'):
            if name in layer:
                layer[name].update(embed_dims=DIM, num_heads=HEADS)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg).eval()


@pytest.fixture(scope='module')
def authors():
    torch.manual_seed(0)
    model = AuthorsMask2Former(CHANNELS, DIM, LAYERS, CLASSES, QUERIES).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize('old', [False, True], ids=['names-of-today', 'old-names'])
@torch.no_grad()
def test_heads_compute_the_same(authors, old):
    state_dict = authors.state_dict()
    if old:
        state_dict = {k.replace('query_feat', 'static_query'): v for k, v in state_dict.items()}
    assert is_detectron2_mask2former(state_dict)
    converted = convert_detectron2_mask2former(state_dict)
    assert not is_detectron2_mask2former(converted)
    assert {key.partition('.')[0] for key in converted} == {'panoptic_head'}
    ours = make_mmdet_head()
    ours.load_state_dict({k.partition('.')[2]: v for k, v in converted.items()})

    maps = [torch.randn(2, c, s, s + 4) for c, s in zip(CHANNELS, (32, 16, 8, 4))]
    scores, masks = ours(maps, [])
    expected = authors(maps)
    assert len(scores) == len(masks) == len(expected) == LAYERS[1] + 1
    for (expected_scores, expected_masks), score, mask in zip(expected, scores, masks):
        torch.testing.assert_close(score, expected_scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mask, expected_masks, rtol=1e-4, atol=1e-4)
    assert scores[0].std() > 0.1 and (scores[0] - scores[-1]).abs().max() > 0.1


def test_several_maps_are_added_from_the_lowest(authors):
    """detectron2 numbers them from the highest resolution, mmdet from the lowest."""
    head = 'sem_seg_head.pixel_decoder'
    state_dict = {
        f'{head}.{name}_{number}.{leaf}': torch.tensor(float(number))
        for name in ('adapter', 'layer')
        for number in (1, 2)
        for leaf in ('weight', 'norm.weight')
    }
    converted = convert_detectron2_mask2former(state_dict)
    for ours in ('lateral_convs', 'output_convs'):
        for part in ('conv', 'gn'):
            key = f'panoptic_head.pixel_decoder.{ours}.{{}}.{part}.weight'
            assert (converted[key.format(0)], converted[key.format(1)]) == (2, 1)


def to_detectron2(key):
    """What detectron2's tools/convert-torchvision-to-d2.py makes of a name in a ResNet."""
    key = re.sub(r'^layer(\d)', lambda match: f'res{int(match[1]) + 1}', key)
    key = re.sub(r'(?:^|\.)bn(\d)', lambda m: m[0].replace(f'bn{m[1]}', f'conv{m[1]}.norm'), key)
    key = key.replace('downsample.0', 'shortcut').replace('downsample.1', 'shortcut.norm')
    return key if key.startswith('res') else f'stem.{key}'


@torch.no_grad()
def test_a_resnet_computes_the_same():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    state_dict = {
        f'backbone.{to_detectron2(key)}': tensor
        for key, tensor in theirs.state_dict().items()
        if not key.startswith('fc.') and not key.endswith('num_batches_tracked')
    }
    assert 'backbone.stem.conv1.norm.running_mean' in state_dict
    assert 'backbone.res2.0.shortcut.norm.weight' in state_dict
    cfg = dict(type='ResNet', depth=50, style='pytorch', norm_eval=True)
    with DefaultScope.overwrite_default_scope('mmdet'):
        ours = MODELS.build(cfg)
    ours.eval()  # returns nothing
    converted = convert_detectron2_mask2former(state_dict)
    weights = {key.partition('.')[2]: tensor for key, tensor in converted.items()}
    missing, unexpected = ours.load_state_dict(weights, strict=False)
    assert not unexpected and all(key.endswith('num_batches_tracked') for key in missing)

    x = images = torch.randn(1, 3, 64, 64)
    expected = []
    for name, module in theirs.named_children():
        if name == 'avgpool':
            break
        x = module(x)
        expected += [x] if name.startswith('layer') else []
    for own, theirs in zip(ours(images), expected):
        torch.testing.assert_close(own, theirs)


def test_other_names_stay():
    state_dict = {
        'backbone.layers.0.blocks.0.attn.qkv.weight': torch.zeros(1),
        'sem_seg_head.predictor.query_embed.weight': torch.zeros(1),
        'sem_seg_head.predictor.something_new.weight': torch.zeros(1),
        'criterion.empty_weight': torch.zeros(4),
    }
    assert set(convert_detectron2_mask2former(state_dict)) == {
        'backbone.layers.0.blocks.0.attn.qkv.weight',
        'panoptic_head.query_embed.weight',
        'sem_seg_head.predictor.something_new.weight',
    }
