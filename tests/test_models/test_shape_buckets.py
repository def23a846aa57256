"""Batches are padded to the smallest size that holds them, and are else as they were."""

from __future__ import annotations

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS

import swin_ext.registration  # noqa: F401
from swin_ext.models.shape_buckets import BatchPadToBuckets, BucketError

SIZES = [[96, 64], (64, 96), (96, 96)]


@pytest.mark.parametrize(
    'size, expected',
    [
        ((64, 64), (64, 96)),
        ((65, 64), (96, 64)),
        ((96, 64), (96, 64)),
        ((65, 65), (96, 96)),
        ((1, 1), (64, 96)),
    ],
)
def test_the_smallest_that_holds_it(size, expected):
    pad = MODELS.build(dict(type='BatchPadToBuckets', sizes=SIZES, pad_value=7.0))
    images = torch.rand(2, 3, *size)
    samples = [DetDataSample(metainfo=dict(pad_shape=size, img_shape=size)) for _ in range(2)]
    padded, told = pad(images, samples)
    H, W = size
    assert padded.shape == (2, 3, *expected)
    assert torch.equal(padded[..., :H, :W], images)
    outside = padded.clone()
    outside[..., :H, :W] = 7
    assert (outside == 7).all()
    for sample in told:
        assert sample.batch_input_shape == expected
        assert sample.pad_shape == sample.img_shape == size


def test_a_batch_that_fits_nowhere_is_refused():
    with pytest.raises(BucketError, match=r'100 x 20 px \(height x width\) .*\(64, 96\).*Add one'):
        BatchPadToBuckets(SIZES)(torch.zeros(1, 3, 100, 20), [])


@pytest.mark.parametrize('sizes', [[], [(64,)], [(64, 0)], [(64, 32.5)], ['ab']])
def test_wrong_sizes_are_refused(sizes):
    with pytest.raises(BucketError, match='must be pairs of a height and a width'):
        BatchPadToBuckets(sizes)
