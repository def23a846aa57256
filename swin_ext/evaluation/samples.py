"""What the metrics share: how they fail on several ranks, and checks of predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mmengine.dist import get_world_size

from swin_ext.coco.entries import as_whole
from swin_ext.evaluation.errors import EvaluationError, PredictionTypeError


class FailTogetherMixin:
    """Makes an error of the main process, which computes the figures, that of every rank.

    Upstream broadcasts the figures afterwards, for which the other ranks would wait. Subclasses
    have `compute_figures(results)` in place of `compute_metrics`.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        try:
            return self.compute_figures(results)
        except Exception as error:
            if get_world_size() == 1:
                raise
            return dict(error=error)

    def evaluate(self, size: int) -> dict[str, float]:
        figures = super().evaluate(size)
        for value in figures.values():
            if isinstance(value, Exception):
                raise value
        return figures


def read_prediction(sample: dict, num_classes: int) -> dict:
    """What a model predicts of one image, checked and as NumPy arrays.

    Returns:
        `img_id`; `labels` (N,), `scores` (N,) and, where there are such, `bboxes` (N, 4),
        `mask_scores` (N,) and `masks`, which are still (N, H, W) on their device or N RLEs.

    Raises:
        EvaluationError: If parts are of different number, a score, or a box of an instance, is not
            finite, or a label is no class.
        PredictionTypeError: If labels are no integers.
    """
    pred, image_id = sample['pred_instances'], as_whole(sample['img_id'])
    if not isinstance(image_id, (int, np.integer, str)):
        raise EvaluationError(f'img_id is {image_id!r}, but must be a number or a text.')
    found = dict(img_id=image_id, labels=as_labels(pred['labels']))
    for key in ('scores', 'mask_scores', 'bboxes'):
        if key in pred:
            value = pred[key].detach()
            # NumPy has no bfloat16.
            found[key] = (value.float() if value.dtype == torch.bfloat16 else value).cpu().numpy()
    if 'masks' in pred:
        found['masks'] = pred['masks']
    count = len(found['labels'])
    for key in found.keys() - {'img_id'}:
        is_wrong = key in ('scores', 'mask_scores', 'labels') and found[key].ndim != 1
        if len(found[key]) != count or is_wrong:
            shape = getattr(found[key], 'shape', (len(found[key]),))
            raise EvaluationError(
                f'Image {image_id!r}: the model predicts {count} labels, but {key} of shape '
                f'{tuple(shape)}.'
            )
    check_prediction(found, num_classes)
    return found


def as_labels(labels: torch.Tensor) -> np.ndarray:
    """Labels (N,) as integers; without any detection some models give them as floats.

    Raises:
        PredictionTypeError: If there are labels that are no integers.
    """
    if labels.is_floating_point() and labels.numel():
        raise PredictionTypeError(
            f'Labels are {labels.dtype}, but must be integers, the indices of classes.'
        )
    return labels.cpu().numpy().astype(np.int64)


def check_prediction(prediction: dict, num_classes: int) -> None:
    """Check `scores`, `labels` and, if any, `bboxes` and `mask_scores` of the image `img_id`.

    Raises:
        EvaluationError: If a score or a box is not finite, or a label is no class.
    """
    for key, name in (('scores', 'score'), ('mask_scores', 'mask score'), ('bboxes', 'box')):
        values = prediction.get(key)
        if values is not None and not np.isfinite(values).all():
            number = int(np.argwhere(~np.isfinite(values))[0][0])
            raise EvaluationError(
                f'Image {prediction["img_id"]!r}: instance {number} has the {name} '
                f'{values[number]}; the weights may have diverged in training.'
            )
    labels = prediction['labels']
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        unknown = labels.max() if labels.max() >= num_classes else labels.min()
        raise EvaluationError(
            f'Image {prediction["img_id"]!r}: the model predicts label {unknown}, but the '
            f'data set has {num_classes} classes: check num_classes.'
        )


def drop_duplicates(results: list, image_id: Callable) -> list:
    """Keep the first result of each image; samplers pad the last batches with repeated images."""
    return list({image_id(result): result for result in reversed(results)}.values())[::-1]
