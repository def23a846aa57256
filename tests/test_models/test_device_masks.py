"""Targets that are made on the device are those of mmdet."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import ConfigDict

from host_reads import host_reads
from swin_ext.models import device_masks
from swin_ext.models.device_masks import DeviceTargetMaskHead, on_device, unpack
from swin_ext.models.sync_avg_factor import sync_avg_factor

DEVICES = [
    'cpu',
    pytest.param(
        'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
    ),
]
SIZES = dict(num_convs=1, in_channels=4, conv_out_channels=4, num_classes=3)


def image(seed, num_masks=4, num_boxes=9, size=(37, 50), values=(0, 1), device='cpu'):
    """Masks at random, and positive samples, some of them partly outside of the image."""
    rng = np.random.RandomState(seed)
    H, W = size
    masks = rng.choice(np.array(values, np.uint8), (num_masks, H, W))
    masks[:, : H // 2, : W // 2] = values[-1]  # a part that is whole
    corners = rng.uniform(-5, (W + 5, H + 5), (num_boxes, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    result = SimpleNamespace(
        pos_priors=torch.tensor(boxes, dtype=torch.float32, device=device),
        pos_assigned_gt_inds=torch.tensor(rng.randint(0, num_masks, num_boxes), device=device),
    )
    return result, SimpleNamespace(masks=BitmapMasks(masks, H, W))


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'images',
    [
        [dict()],
        [dict(), dict(size=(64, 33), num_masks=1)],
        [dict(num_boxes=0), dict()],
        [dict(num_boxes=0)],
        [dict(values=(0, 255))],
        [dict(num_masks=30, num_boxes=100)],
    ],
    ids=str,
)
@pytest.mark.parametrize('cfg', [dict(mask_size=28), dict(mask_size=(7, 9), soft_mask_target=True)])
def test_targets_are_mmdets_to_the_last_bit(device, images, cfg):
    pairs = [image(seed, device=device, **each) for seed, each in enumerate(images)]
    arguments = ([result for result, _ in pairs], [truth for _, truth in pairs], ConfigDict(cfg))
    expected = FCNMaskHead(**SIZES).get_targets(*arguments)
    own = DeviceTargetMaskHead(**SIZES).get_targets(*arguments)
    assert own.dtype == expected.dtype and own.device == expected.device
    assert torch.equal(own, expected)
    if len(own) and not cfg.get('soft_mask_target'):
        assert 0 < own.mean() < 1


@pytest.mark.parametrize('size', [(5, 8), (5, 9), (3, 1), (2, 17), (0, 4)])
@pytest.mark.parametrize('number', [0, 3])
def test_packed_masks_are_the_same(number, size, monkeypatch):
    """The way to a GPU, but for pinned memory, which needs one."""
    monkeypatch.setattr(device_masks, '_pinned', torch.from_numpy)
    masks = np.random.RandomState(0).randint(0, 2, (number, *size)).astype(np.uint8)
    own = device_masks._upload(masks, torch.device('cpu'))
    assert own.dtype == torch.uint8 and np.array_equal(own.numpy(), masks)
    assert np.array_equal(unpack(torch.from_numpy(np.packbits(masks, 2)), size[1]), masks)
    grey = masks * 200
    assert np.array_equal(device_masks._upload(grey, torch.device('cpu')), grey)


def test_masks_are_uploaded_once_and_given_up_with_their_owner():
    _, truth = image(0)
    first = on_device(truth.masks, torch.device('cpu'))
    assert on_device(truth.masks, torch.device('cpu')) is first
    assert on_device(truth.masks, torch.device('meta')).device.type == 'meta'
    before = len(device_masks._uploaded)
    del truth
    assert len(device_masks._uploaded) == before - 1


def test_nothing_is_read_back():
    pairs = [image(seed) for seed in (0, 1)]
    with host_reads() as found:
        DeviceTargetMaskHead(**SIZES).get_targets(
            [result for result, _ in pairs],
            [truth for _, truth in pairs],
            ConfigDict(mask_size=28),
        )
    assert {each.file for each in found if 'mmcv_ext' not in each.file} == set()


def test_polygons_are_left_to_mmdet():
    result, _ = image(0, num_masks=1)
    polygon = np.array([3.0, 3, 30, 4, 25, 30])
    truth = SimpleNamespace(masks=PolygonMasks([[polygon]], 37, 50))
    arguments = ([result], [truth], ConfigDict(mask_size=14))
    own = DeviceTargetMaskHead(**SIZES).get_targets(*arguments)
    assert torch.equal(own, FCNMaskHead(**SIZES).get_targets(*arguments))
    assert own.any()


def test_parameters_are_mmdets_and_losses_can_be_synced():
    own, upstream = DeviceTargetMaskHead(**SIZES), FCNMaskHead(**SIZES)
    own.load_state_dict(upstream.state_dict(), strict=True)
    model = torch.nn.ModuleDict(dict(head=own))
    assert sync_avg_factor(model) == (['head'], [])
