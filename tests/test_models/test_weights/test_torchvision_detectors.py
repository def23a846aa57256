"""Torchvision's Mask R-CNN, converted: mmdet's heads compute what torchvision's do."""

from __future__ import annotations

import re

import mmdet.models  # noqa: F401  # registers the detector
import pytest
import torch
import torchvision
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torchvision.models.detection import backbone_utils, faster_rcnn, mask_rcnn
from torchvision.models.detection.rpn import RPNHead

from swin_ext.models.weights.torchvision_detectors import (
    convert_torchvision_detector,
    is_torchvision_detector,
)

CLASSES = 3
WIDTH = 16


def make_torchvision(version):
    torch.manual_seed(0)
    norm = torch.nn.BatchNorm2d if version == 2 else None
    backbone = backbone_utils._resnet_fpn_extractor(
        torchvision.models.resnet50(weights=None), trainable_layers=5, norm_layer=norm
    )
    # Narrow: the extractor makes 256 channels, which cost time alone.
    backbone.fpn = torchvision.ops.FeaturePyramidNetwork(
        [256, 512, 1024, 2048],
        WIDTH,
        extra_blocks=torchvision.ops.feature_pyramid_network.LastLevelMaxPool(),
        norm_layer=norm,
    )
    backbone.out_channels = WIDTH
    if version == 1:
        parts = dict(
            box_head=faster_rcnn.TwoMLPHead(WIDTH * 49, 32),
            mask_head=mask_rcnn.MaskRCNNHeads(WIDTH, (WIDTH,) * 4, 1),
        )
    else:
        parts = dict(
            rpn_head=RPNHead(WIDTH, 3, conv_depth=2),
            box_head=faster_rcnn.FastRCNNConvFCHead(
                (WIDTH, 7, 7), [WIDTH] * 4, [32], norm_layer=norm
            ),
            mask_head=mask_rcnn.MaskRCNNHeads(WIDTH, [WIDTH] * 4, 1, norm_layer=norm),
        )
    model = mask_rcnn.MaskRCNN(
        backbone,
        box_predictor=faster_rcnn.FastRCNNPredictor(32, CLASSES + 1),
        mask_predictor=mask_rcnn.MaskRCNNPredictor(WIDTH, WIDTH, CLASSES + 1),
        **parts,
    )
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            continue
        if name.endswith('running_var') or (tensor.ndim == 1 and name.endswith('weight')):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1:
            tensor.normal_(std=0.2)
    return model.eval()


def make_mmdet(version):
    cfg = Config.fromfile(
        f'{mmdet.__path__[0]}/.mim/configs/_base_/models/mask-rcnn_r50_fpn.py'
    ).model
    cfg.backbone.init_cfg = None
    cfg.neck.out_channels = WIDTH
    cfg.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    cfg.roi_head.bbox_roi_extractor.out_channels = WIDTH
    cfg.roi_head.mask_roi_extractor.out_channels = WIDTH
    cfg.roi_head.bbox_head.update(in_channels=WIDTH, fc_out_channels=32, num_classes=CLASSES)
    cfg.roi_head.mask_head.update(in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=CLASSES)
    if version == 2:
        norm = dict(type='BN')
        cfg.neck.norm_cfg = norm
        cfg.rpn_head.num_convs = 2
        cfg.roi_head.bbox_head.update(
            type='Shared4Conv1FCBBoxHead', conv_out_channels=WIDTH, norm_cfg=norm
        )
        cfg.roi_head.mask_head.norm_cfg = norm
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg).eval()


def old_names(state_dict):
    """Names of files such as maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth."""
    renamed = {}
    for name, tensor in state_dict.items():
        name = re.sub(r'(inner_blocks|layer_blocks)\.(\d+)\.0\.', r'\1.\2.', name)
        name = name.replace('rpn.head.conv.0.0.', 'rpn.head.conv.')
        match = re.fullmatch(r'roi_heads\.mask_head\.(\d)\.0\.(.+)', name)
        if match:
            name = f'roi_heads.mask_head.mask_fcn{int(match[1]) + 1}.{match[2]}'
        renamed[name] = tensor
    return renamed


@pytest.mark.parametrize(
    'version, rename', [(1, dict), (1, old_names), (2, dict)], ids=['v1', 'v1-old-names', 'v2']
)
@torch.no_grad()
def test_heads_compute_the_same(version, rename):
    theirs, ours = make_torchvision(version), make_mmdet(version)
    state_dict = rename(theirs.state_dict())
    assert is_torchvision_detector(state_dict)
    converted = convert_torchvision_detector(state_dict)
    assert not is_torchvision_detector(converted)
    missing, unexpected = ours.load_state_dict(converted, strict=False)
    assert unexpected == []
    # The classifier of torchvision's ResNet has gone before.
    assert all(name.endswith('num_batches_tracked') for name in missing)

    torch.manual_seed(1)
    images = torch.randn(2, 3, 64, 96)
    maps = list(theirs.backbone(images).values())
    for a, b in zip(ours.extract_feat(images), maps):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for own, peer in zip(ours.rpn_head(maps), theirs.rpn.head(maps)):
        for a, b in zip(own, peer):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

    rois = torch.randn(5, WIDTH, 7, 7)
    scores, boxes = ours.roi_head.bbox_head(rois)
    their_scores, their_boxes = theirs.roi_heads.box_predictor(theirs.roi_heads.box_head(rois))
    torch.testing.assert_close(scores, their_scores[:, [1, 2, 3, 0]], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(boxes, their_boxes[:, 4:], rtol=1e-4, atol=1e-4)

    rois = torch.randn(5, WIDTH, 14, 14)
    masks = ours.roi_head.mask_head(rois)
    their_masks = theirs.roi_heads.mask_predictor(theirs.roi_heads.mask_head(rois))
    torch.testing.assert_close(masks, their_masks[:, 1:], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_boxes_are_coded_alike():
    ours, theirs = make_mmdet(1).roi_head.bbox_head.bbox_coder, make_torchvision(1).roi_heads
    torch.manual_seed(2)
    corner = torch.rand(6, 2) * 50
    boxes = torch.cat([corner, corner + 5 + 20 * torch.rand(6, 2)], dim=1)
    deltas = torch.randn(6, 4)
    torch.testing.assert_close(
        ours.decode(boxes, deltas),
        theirs.box_coder.decode_single(deltas, boxes),
        rtol=1e-4,
        atol=1e-3,
    )


def test_unknown_names_stay():
    tensor = torch.ones(2)
    state_dict = {
        'roi_heads.keypoint_head.0.weight': tensor,
        'roi_heads.box_predictor.cls_score.weight': torch.arange(4.0)[:, None],
    }
    converted = convert_torchvision_detector(state_dict)
    assert converted['roi_heads.keypoint_head.0.weight'] is tensor
    assert converted['roi_head.bbox_head.fc_cls.weight'].flatten().tolist() == [1, 2, 3, 0]
