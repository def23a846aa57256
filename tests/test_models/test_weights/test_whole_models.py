"""Published segmentors and detectors on a Swin: those of MMDetection and MMSegmentation, whole."""

from __future__ import annotations

import copy
from pathlib import Path

import mmdet
import mmdet.models  # noqa: F401  # registers the models
import mmseg.models  # noqa: F401
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import swin_ext.models.swin  # noqa: F401
from swin_ext.models.weights.whole_models import convert_backbone, convert_heads

ARCH = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
CHANNELS = [16, 32, 64, 128]
SIZE = 65  # no multiple of a patch, a window or a stride


def upernet() -> tuple[dict, str]:
    path = Path(mmseg.__path__[0], '.mim/configs/_base_/models/upernet_swin.py')
    model = Config.fromfile(path).model
    model.decode_head.update(in_channels=CHANNELS, channels=16, norm_cfg=dict(type='BN'))
    model.auxiliary_head.update(in_channels=CHANNELS[2], channels=16, norm_cfg=dict(type='BN'))
    return model, 'mmseg'


def mask2former() -> tuple[dict, str]:
    path = Path(
        mmdet.__path__[0],
        '.mim/configs/mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py',
    )
    model = Config.fromfile(path).model
    model.panoptic_head.in_channels = CHANNELS
    return model, 'mmdet'


@pytest.mark.parametrize('make', [upernet, mask2former])
@torch.no_grad()
def test_the_model_on_our_backbone_computes_the_same(make):
    cfg, scope = make()
    cfg.backbone.update(ARCH, init_cfg=None)
    own = copy.deepcopy(cfg)
    own.backbone = dict(type='SwinBackbone', arch=ARCH, drop_path_rate=0.3)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope(scope):
        theirs, ours = (MODELS.build(dict(c, type=f'{scope}.{c.type}')) for c in (cfg, own))
    assert type(theirs.backbone).__module__ == f'{scope}.models.backbones.swin'
    for tensor in theirs.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_(std=0.1).abs_() if tensor.ndim == 1 else tensor.normal_(std=0.1)

    state_dict, notes = convert_heads({'state_dict': theirs.state_dict(), 'meta': {}})
    converted, matched = convert_backbone(state_dict, ours.backbone.state_dict())
    assert notes == [] and not (matched.reinitialised or matched.unused)
    ours.load_state_dict(converted)  # strictly

    images = torch.randn(1, 3, SIZE, SIZE)
    theirs.eval(), ours.eval()
    for own, expected in zip(ours.backbone(images), theirs.backbone(images)):
        torch.testing.assert_close(own, expected)
    if scope == 'mmseg':
        expected = theirs(images)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(images), expected)
    else:
        for own, expected in zip(
            ours.panoptic_head(ours.backbone(images), []),
            theirs.panoptic_head(theirs.backbone(images), []),
        ):
            assert expected[-1].std() > 1e-3
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
