"""Heads whose losses are averages over the samples of all ranks, not over those of each rank.

`DistributedDataParallel` averages gradients over ranks. A loss that each rank has divided by the
number of its own samples then counts a sample of a rank with few of them for more than another.
Divided by the mean of that number over ranks, as mmdet does in its one-stage heads (`reduce_mean`),
it gives the gradients of one process that has the images of all ranks.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import AnchorHead, RetinaHead, RPNHead
from mmdet.models.roi_heads.bbox_heads import (
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
)
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.utils import reduce_mean
from mmengine.registry import MODELS
from torch import Tensor

PREFIX = 'Synced'


def mean_over_ranks(number: float, like: Tensor) -> float:
    """Mean of a number over ranks, which must all come here; `like` is on the device to use."""
    return reduce_mean(torch.tensor(float(number), device=like.device)).item()


class _SyncedAnchors:
    """Of an `AnchorHead`: the number of sampled anchors, which divides both of its losses."""

    def get_targets(self, anchor_list, *args, **kwargs) -> tuple:
        targets = list(super().get_targets(anchor_list, *args, **kwargs))
        targets[4] = mean_over_ranks(targets[4], targets[0][0])
        return tuple(targets)


class _SyncedBoxes:
    """Of a `BBoxHead`: the number of sampled regions, which divides both of its losses."""

    def loss(
        self,
        cls_score,
        bbox_pred,
        rois,
        labels,
        label_weights,
        bbox_targets,
        bbox_weights,
        reduction_override=None,
    ) -> dict:
        losses = super().loss(
            cls_score,
            bbox_pred,
            rois,
            labels,
            label_weights,
            bbox_targets,
            bbox_weights,
            reduction_override,
        )
        for name, number in (
            ('loss_cls', max(int((label_weights > 0).sum()), 1)),
            ('loss_bbox', len(bbox_targets)),
        ):
            factor = number / max(mean_over_ranks(number, labels), 1e-12)
            for key in losses:
                if key.startswith(name) and reduction_override is None:
                    losses[key] = losses[key] * factor
        return losses


class _SyncedMasks:
    """Of an `FCNMaskHead`: the number of positive regions, over which its loss is a mean."""

    def loss_and_target(self, mask_preds, *args, **kwargs) -> dict:
        result = super().loss_and_target(mask_preds, *args, **kwargs)
        number = len(mask_preds)
        factor = number / max(mean_over_ranks(number, mask_preds), 1e-12)
        result['loss_mask']['loss_mask'] = result['loss_mask']['loss_mask'] * factor
        return result


def synced(head: type) -> type:
    """The class `head` with losses that are averages over the samples of all ranks."""
    (mixin,) = (
        mixin
        for base, mixin in (
            (AnchorHead, _SyncedAnchors),
            (BBoxHead, _SyncedBoxes),
            (FCNMaskHead, _SyncedMasks),
        )
        if issubclass(head, base)
    )
    return type(PREFIX + head.__name__, (mixin, head), {'__doc__': mixin.__doc__})


HEADS = (
    RPNHead,
    RetinaHead,
    BBoxHead,
    ConvFCBBoxHead,
    Shared2FCBBoxHead,
    Shared4Conv1FCBBoxHead,
    FCNMaskHead,
)
for _head in HEADS:
    MODELS.register_module(name=PREFIX + _head.__name__, module=synced(_head))
