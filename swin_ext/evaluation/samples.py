"""What the metrics share: how they fail on several ranks, and checks of predictions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from mmengine.dist import get_world_size

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
    """Check `scores` and `labels`, both of shape (N,), of the image `img_id`.

    Raises:
        EvaluationError: If a score is not finite or a label is no class.
    """
    scores, labels = prediction['scores'], prediction['labels']
    if not np.isfinite(scores).all():
        number = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise EvaluationError(
            f'Image {prediction["img_id"]!r}: instance {number} has the score {scores[number]}; '
            'the weights may have diverged in training.'
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise EvaluationError(
            f'Image {prediction["img_id"]!r}: the model predicts label {labels.max()}, but the '
            f'data set has {num_classes} classes: check num_classes.'
        )


def drop_duplicates(results: list, image_id: Callable) -> list:
    """Keep the first result of each image; samplers pad the last batches with repeated images."""
    return list({image_id(result): result for result in reversed(results)}.values())[::-1]
