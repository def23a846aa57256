"""Masks cut out of one map of class logits, and the loss of all its pixels."""

from __future__ import annotations

from pathlib import Path

import monai.losses
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.structures import InstanceData

import swin_ext.registration  # noqa: F401
from swin_ext.config import finalise_config
from swin_ext.models.pixel_mask_roi_head import PixelMaskError, class_maps, dice_loss

CONFIG = Path(__file__).parents[2] / 'configs/mask_rcnn/mask_rcnn_swin-nano_pixel-cmr.py'
CLASSES = 3


def objects(masks: np.ndarray, labels: list[int]) -> InstanceData:
    bitmaps = BitmapMasks(masks.astype(np.uint8), *masks.shape[1:])
    return InstanceData(
        bboxes=bitmaps.get_bboxes('hbox').tensor if len(masks) else torch.zeros(0, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        masks=bitmaps,
    )


@pytest.fixture(scope='module')
def detector():
    register_all_modules()
    torch.manual_seed(0)
    detector = MODELS.build(finalise_config(Config.fromfile(CONFIG)).model)
    detector.init_weights()
    return detector


def features(seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 64, n, n, generator=generator) for n in (32, 16, 8, 4, 2))


@pytest.mark.parametrize('image', [0, 1])
@pytest.mark.parametrize('corner', [(0, 0), (5, 2), (8, 8)])
def test_a_box_with_a_bin_for_each_pixel_gets_those_pixels(detector, image, corner):
    head, maps = detector.roi_head, features()
    size = head.mask_roi_extractor.roi_layers[0].output_size[0]
    stride = 4 // head.upsampling
    top, left = corner
    roi = torch.tensor([[image, left, top, left + size, top + size]]) * stride
    roi[:, 0] = image
    with torch.no_grad():
        cut = head._mask_forward(maps, roi.float())['mask_preds']
        whole = head.mask_head(maps[0])
    assert whole.shape == (2, CLASSES, 32 * head.upsampling, 32 * head.upsampling)
    expected = whole[image, :, top : top + size, left : left + size]
    torch.testing.assert_close(cut[0], expected, atol=1e-5, rtol=1e-4)


def test_dice_loss_is_that_of_monai():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, CLASSES, 9, 7, generator=generator)
    targets = (torch.rand(2, CLASSES, 9, 7, generator=generator) > 0.7).float()
    targets[1, 2] = 0
    expected = monai.losses.DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)
    torch.testing.assert_close(dice_loss(logits, targets), expected(logits, targets))


def test_class_maps_are_shares_of_the_union_of_a_class():
    rng = np.random.RandomState(0)
    masks = rng.rand(3, 8, 12) > 0.6
    samples = [objects(masks, [0, 2, 2]), objects(masks[:0], [])]
    maps = class_maps(samples, torch.zeros(2, CLASSES, 4, 6))
    for label, union in {0: masks[0], 1: np.zeros((8, 12)), 2: masks[1] | masks[2]}.items():
        share = union.reshape(4, 2, 6, 2).mean((1, 3))
        np.testing.assert_allclose(maps[0, label].numpy(), share, atol=1e-6)
    assert not maps[1].any()


@pytest.mark.parametrize('empty', [False, True])
def test_a_step_teaches_the_mask_head(detector, empty):
    """Also where no image of a batch has an object."""
    square = np.zeros((1, 64, 64), bool)
    square[0, 10:40, 20:50] = True
    samples = []
    for _ in range(2):
        sample = DetDataSample(
            metainfo=dict(img_shape=(64, 64), pad_shape=(64, 64), batch_input_shape=(64, 64))
        )
        sample.gt_instances = objects(square[: 0 if empty else 1], [] if empty else [1])
        samples.append(sample)
    detector.zero_grad()
    losses = detector.loss(torch.randn(2, 3, 64, 64), samples)
    assert {'loss_mask', 'loss_pixel_bce', 'loss_pixel_dice'} <= set(losses)
    total, _ = detector.parse_losses(losses)
    total.backward()
    gradient = detector.roi_head.mask_head.conv_logits.weight.grad
    assert torch.isfinite(total) and torch.isfinite(gradient).all()
    assert (gradient.flatten(1).norm(dim=1) > 0).all()


def test_masks_that_do_not_tell_classes_apart_are_refused():
    cfg = finalise_config(Config.fromfile(CONFIG)).model
    cfg.roi_head.mask_head.class_agnostic = True
    with pytest.raises(PixelMaskError, match='mask_head.class_agnostic=False'):
        MODELS.build(cfg)
