"""Heads whose losses are averaged over the samples of all ranks, not over those of their own.

`DistributedDataParallel` takes the mean of the ranks' gradients. A loss that each rank divides by
the number of its own samples then weighs a sample by how few there are beside it: 2 ranks x 2
images train otherwise than 1 x 4. Divided by the mean number of all ranks, they train the same, as
in those heads of MMDetection that call `reduce_mean` (FCOS, ATSS, DETR, Mask2Former).
"""

from __future__ import annotations

import functools

import torch
from mmdet.models.dense_heads import AnchorHead, RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.utils import reduce_mean
from mmengine.dist import get_world_size
from torch import Tensor, nn


class SyncedAnchors:
    """Mixin for an `AnchorHead`: RPN, RetinaNet, SSD."""

    def get_targets(self, anchor_list, *args, **kwargs) -> tuple:
        targets = super().get_targets(anchor_list, *args, **kwargs)
        if targets is None:
            return targets
        own = anchor_list[0][0].new_full((), float(targets[4]))  # no upload to be waited for
        return *targets[:4], mean_over_ranks(own), *targets[5:]


class SyncedBoxes:
    """Mixin for a `BBoxHead`, which has a number of its own for classes and one for boxes."""

    def loss(self, cls_score, bbox_pred, rois, labels, label_weights, *args, **kwargs) -> dict:
        losses = super().loss(cls_score, bbox_pred, rois, labels, label_weights, *args, **kwargs)
        own = torch.stack([(label_weights > 0).sum(), label_weights.new_full((), len(labels))])
        own = own.float()  # (2,)
        of_classes, of_boxes = own.clamp(min=1) / mean_over_ranks(own)
        return {
            name: loss
            if not name.startswith('loss')
            else loss * (of_boxes if name.startswith('loss_bbox') else of_classes)
            for name, loss in losses.items()
        }


class SyncedMasks:
    """Mixin for an `FCNMaskHead`, which takes the mean over the positive samples."""

    def loss_and_target(self, mask_preds: Tensor, *args, **kwargs) -> dict:
        found = super().loss_and_target(mask_preds, *args, **kwargs)
        own = mask_preds.new_full((), float(len(mask_preds)))
        factor = own / mean_over_ranks(own)
        losses = {name: loss * factor for name, loss in found['loss_mask'].items()}
        return dict(found, loss_mask=losses)


# The head that averages in a method of these names, and the mixin that does it over all ranks. A
# head that has such a method of its own averages in its own way.
KINDS = (
    (AnchorHead, ('get_targets', 'loss_by_feat_single'), SyncedAnchors),
    (BBoxHead, ('loss',), SyncedBoxes),
    (FCNMaskHead, ('loss_and_target',), SyncedMasks),
)
HEADS = (BaseDenseHead, BBoxHead, FCNMaskHead)


def sync_avg_factor(model: nn.Module) -> tuple[list[str], list[str]]:
    """Let the heads of a detector average over the samples of all ranks; in place.

    Every rank must come to the heads in the same order, as in training; they exchange one or two
    numbers each. Doing it again changes nothing.

    Returns:
        Names of the heads that do so now, and of those that were left as they are, since they
        average in a way of their own: many of these over all ranks already.
    """
    synced, others = [], []
    for name, module in model.named_modules():
        kind = type(module)
        mixin = next((mixin for head, names, mixin in KINDS if _averages(kind, head, names)), None)
        if issubclass(kind, tuple(mixin for *_, mixin in KINDS)):
            synced.append(name)
        elif mixin is not None:
            module.__class__ = _with_mixin(mixin, kind)
            synced.append(name)
        elif isinstance(module, HEADS):
            others.append(name)
    return synced, others


def mean_over_ranks(own: Tensor) -> Tensor:
    """The mean of counts, () or (N,), over the ranks; that of one sample in all, if there is none.

    So the ranks' losses, each divided by it, have the mean that one process would divide by the sum
    of the counts, which upstream does not let fall below 1.
    """
    return reduce_mean(own).clamp(min=1 / get_world_size())


def _averages(kind: type, head: type, names: tuple[str, ...]) -> bool:
    if not issubclass(kind, head):
        return False
    loss_is_known = head is not AnchorHead or kind.loss_by_feat in (
        AnchorHead.loss_by_feat,
        RPNHead.loss_by_feat,
    )
    return loss_is_known and all(getattr(kind, name) is getattr(head, name) for name in names)


@functools.cache
def _with_mixin(mixin: type, kind: type) -> type:
    return type(f'Synced{kind.__name__}', (mixin, kind), {'__doc__': kind.__doc__})
