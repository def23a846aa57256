"""Batches of few sizes, for compilers, which make a program for each."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from swin_ext.utils.errors import UserError


class BucketError(UserError, ValueError):
    """Sizes that are none, or that a batch does not fit into."""


@MODELS.register_module()
class BatchPadToBuckets(nn.Module):
    """Pad a batch to the smallest of a few sizes, at the bottom and right.

    One of `data_preprocessor.batch_augments`, so for training alone; it comes after normalisation.
    Batches of one orientation (`AspectRatioBatchSampler`) need few: images of 1333 x 800 px by
    their longer and shorter side need no more than `[(800, 1344), (1344, 800), (1344, 1344)]`.
    Anchors outside of an image stay as invalid as they were (`pad_shape`).

    Args:
        sizes: (H, W) in px.
        pad_value: Of images that are normalised.

    Raises:
        BucketError: If `sizes` are none; for a batch, if it is larger than all.
    """

    def __init__(self, sizes: Sequence[Sequence[int]], pad_value: float = 0.0) -> None:
        super().__init__()
        sizes = [tuple(size) for size in sizes]
        if not sizes or not all(
            len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size)
            for size in sizes
        ):
            raise BucketError(
                f'BatchPadToBuckets: sizes={sizes} must be pairs of a height and a width in px.'
            )
        self.sizes = sorted(set(sizes), key=lambda size: size[0] * size[1])
        self.pad_value = pad_value

    def forward(self, inputs: Tensor, data_samples: list) -> tuple[Tensor, list]:
        """Pad images (B, C, h, w); samples are told the new `batch_input_shape`."""
        h, w = inputs.shape[-2:]
        fitting = [size for size in self.sizes if size[0] >= h and size[1] >= w]
        if not fitting:
            raise BucketError(
                f'BatchPadToBuckets: a batch of {h} x {w} px (height x width) fits into none of '
                f'sizes={self.sizes}. Add one of at least that to '
                'model.data_preprocessor.batch_augments.'
            )
        H, W = fitting[0]
        if (H, W) != (h, w):
            inputs = F.pad(inputs, (0, W - w, 0, H - h), value=self.pad_value)
        for sample in data_samples or ():
            sample.set_metainfo(dict(batch_input_shape=(H, W)))
        return inputs, data_samples
