"""COCO's figures from what its evaluator has accumulated."""

from __future__ import annotations

import numpy as np

# The figures of COCOeval.stats, in its order: average precision, then average recall.
PRECISION_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALL_ITEMS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


def average_precision(
    evaluation,
    cat: int | slice = slice(None),
    iou: float | None = None,
    area: int = 0,
    max_dets: int = -1,
) -> float:
    """Mean of the evaluated precisions; NaN where there is nothing to find.

    Args:
        cat: Rank of the category; all by default.
        iou: IoU threshold; all by default.
        area: 0 for objects of any size, 1 for small, 2 for medium, 3 for large ones.
        max_dets: Index of the number of detections per image.
    """
    precision = evaluation.eval['precision']  # (IoU, recall, category, area, max_dets)
    if iou is not None:
        precision = precision[np.isclose(evaluation.params.iouThrs, iou)]
    precision = precision[:, :, cat, area, max_dets]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else float('nan')


def summarize(evaluation) -> dict[str, float]:
    """The twelve figures of pycocotools' `COCOeval.summarize`, -1 where there is nothing to find.

    Like there, mAP counts the 100 best detections of an image, the others the largest number.
    """

    def recall(area=0, max_dets=-1):
        values = evaluation.eval['recall'][:, :, area, max_dets]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    precisions = [
        average_precision(evaluation, max_dets=list(evaluation.params.maxDets).index(100)),
        average_precision(evaluation, iou=0.5),
        average_precision(evaluation, iou=0.75),
        *(average_precision(evaluation, area=area) for area in (1, 2, 3)),
    ]
    recalls = [
        *(recall(max_dets=index) for index in range(3)),
        *(recall(area=area) for area in (1, 2, 3)),
    ]
    stats = dict(zip(PRECISION_ITEMS, (-1.0 if np.isnan(p) else p for p in precisions)))
    stats.update(zip(RECALL_ITEMS, recalls))
    return stats
