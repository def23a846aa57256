"""Suppression of overlapping boxes, group by group, as one operator in PyTorch and in ONNX.

mmcv and torchvision move the boxes of each group to a place of their own, and suppress once. With
the groups of a whole batch, these places are so far away that box coordinates lose digits. ONNX
has an operator with groups; this is what the exporter translates into it.
"""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor


@torch.library.custom_op('swin_ext::grouped_nms', mutates_args=())
def grouped_nms(boxes: Tensor, scores: Tensor, iou_threshold: Tensor, min_score: Tensor) -> Tensor:
    """Keep, in each group, boxes above a score that overlap no better one by more than a share.

    Args:
        boxes: (G, K, 4), x1, y1, x2, y2.
        scores: (G, K).
        iou_threshold: float32 (1,).
        min_score: float32 (1,).

    Returns:
        int64 (M, 2), group and place in it of what is kept.
    """
    kept = []
    for group in range(len(boxes)):
        places = (scores[group] > min_score).nonzero()[:, 0]
        chosen = torchvision.ops.nms(
            boxes[group, places], scores[group, places], float(iou_threshold)
        )
        kept.append(torch.stack((torch.full_like(chosen, group), places[chosen]), dim=1))
    return torch.cat(kept)


@grouped_nms.register_fake
def _(boxes, scores, iou_threshold, min_score):
    number = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty((number, 2), dtype=torch.int64)


def to_onnx(boxes, scores, iou_threshold, min_score):
    """The translation, as `torch.onnx.export` takes it in its `custom_translation_table`."""
    from onnxscript import opset18 as op

    number = op.Reshape(op.Shape(scores, start=1, end=2), op.Constant(value_ints=[1]))
    selected = op.NonMaxSuppression(
        boxes, op.Unsqueeze(scores, op.Constant(value_ints=[1])), number, iou_threshold, min_score
    )  # (M, 3): group, class (there is one), place
    return op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
