"""Masks in the image: the matrix products against mmdet's sampling."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask

from swin_ext.inference.paste import paste_masks

SHAPE = (40, 53)
BOXES = np.array(
    [
        [3.2, 4.7, 20.1, 33.9],
        [0, 0, 53, 40],  # the whole image
        [10.5, 10.5, 11.2, 11.1],  # smaller than a pixel
        [50.3, 2, 53, 9.5],  # at the border
        [7, 8, 7, 20],  # without width
        [12.25, 8, 30.75, 8],  # without height
    ],
    np.float32,
)


@pytest.mark.parametrize('size', [14, 28])
@pytest.mark.parametrize('seed', range(3))
def test_it_is_mmdets(size, seed):
    masks = np.random.RandomState(seed).rand(len(BOXES), size, size).astype(np.float32)
    pasted = paste_masks(masks, BOXES, SHAPE, 0.5)
    assert pasted.shape == (len(BOXES), *SHAPE) and pasted.dtype == bool
    for mask, box, found in zip(masks, BOXES, pasted):
        expected, place = _do_paste_mask(
            torch.tensor(mask)[None, None], torch.tensor(box)[None], *SHAPE, skip_empty=True
        )
        whole = np.zeros(SHAPE, np.float32)
        whole[place] = expected[0].numpy()
        sure = np.abs(whole - 0.5) > 1e-5
        assert np.array_equal(found[sure], whole[sure] >= 0.5)


def test_nothing_to_paste():
    assert paste_masks(np.zeros((0, 28, 28)), np.zeros((0, 4)), SHAPE, 0.5).shape == (0, *SHAPE)
