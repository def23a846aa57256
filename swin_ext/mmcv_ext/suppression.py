"""Non-maximum suppression: hard, soft and grouping.

mmcv runs the last two on the CPU, whatever the device of the boxes. They visit boxes one by one,
for which NumPy's calls are several times cheaper than PyTorch's.
"""

from __future__ import annotations

import numpy as np
import torch
import torchvision
from torch import Tensor

from .precision import kernel_dtype


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the kept boxes, by falling score; widths and heights are x2 - x1 + offset.

    Of equal scores the lower index comes first, which compiled mmcv leaves to an unstable sort.
    """
    dtype = kernel_dtype(boxes)
    boxes = boxes.to(dtype)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    # Compiled mmcv takes the threshold as a C float: an IoU of 0.6f is not above 0.6f, though it
    # is above the double 0.6.
    return torchvision.ops.nms(boxes, scores.to(dtype), float(np.float32(iou_threshold)))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS (Bodla et al., https://arxiv.org/abs/1704.04503).

    Args:
        dets: (N, 5) buffer; its first M rows become the M kept boxes and their decayed scores, in
            the order in which they were picked.
        method: 0 removes an overlapping box, 1 decays its score by 1 - IoU (both only from
            ``iou_threshold``), 2 decays every score by exp(-IoU^2 / sigma).

    Returns:
        Indices (M,) of the kept boxes.
    """
    dtype = kernel_dtype(boxes)
    table = torch.cat((boxes.to(dtype), scores.to(dtype)[:, None]), dim=1).numpy()
    indices = np.arange(len(table))
    count, picked = len(table), 0
    while picked < count:
        # As in the compiled loop, a NaN score (IoU 0/0) wins only where nothing is compared to it.
        candidates = table[picked:count, 4]
        best = picked + (0 if np.isnan(candidates[0]) else np.nanargmax(candidates))
        for column in (table, indices):
            column[[picked, best]] = column[[best, picked]]

        rest = table[picked + 1 : count]
        iou = _iou(table[picked], rest, offset)
        if method == 2:
            rest[:, 4] *= np.exp(-(iou * iou) / sigma)
        else:
            rest[:, 4] *= np.where(iou >= iou_threshold, 0 if method == 0 else 1 - iou, 1)

        # The compiled loop overwrites a discarded box by the last one. That order decides between
        # equal scores, so it is kept: holes, first to last, take the survivors, last to first.
        kept = ~(rest[:, 4] < min_score)
        survivors = int(kept.sum())
        for column in (rest, indices[picked + 1 : count]):
            column[:survivors][~kept[:survivors]] = column[survivors:][kept[survivors:]][::-1]
        picked += 1
        count = picked + survivors
    dets[:count] = torch.from_numpy(table[:count])
    return torch.from_numpy(indices[:count])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of box indices: each kept box of dets (N, 5), then the boxes that it suppresses."""
    boxes = dets.to(kernel_dtype(dets)).numpy()
    remaining = np.argsort(-boxes[:, 4], kind='stable')
    groups = []
    while len(remaining):
        first, rest = remaining[0], remaining[1:]
        suppressed = _iou(boxes[first], boxes[rest], offset=0) >= iou_threshold
        groups.append([int(first), *rest[suppressed].tolist()])
        remaining = rest[~suppressed]
    return groups


def _iou(box: np.ndarray, boxes: np.ndarray, offset: int) -> np.ndarray:
    """IoU (N,) of a box with boxes (N, >= 4); NaN for two boxes without area."""
    x1, y1, x2, y2 = boxes[:, :4].T
    width = np.minimum(box[2], x2) - np.maximum(box[0], x1) + offset
    height = np.minimum(box[3], y2) - np.maximum(box[1], y1) + offset
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    area = (box[2] - box[0] + offset) * (box[3] - box[1] + offset)
    areas = (x2 - x1 + offset) * (y2 - y1 + offset)
    with np.errstate(invalid='ignore', divide='ignore'):
        return intersection / (area + areas - intersection)
