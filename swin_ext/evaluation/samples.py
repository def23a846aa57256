"""What the metrics check of predictions ."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def check_prediction(prediction: dict, num_classes: int) -> None:
    """Check `scores` and `labels`, both of shape (N,), of the image `img_id`.

    Raises:
        ValueError: If a score is not finite or a label is no class.
    """
    scores, labels = prediction['scores'], prediction['labels']
    if not np.isfinite(scores).all():
        number = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise ValueError(
            f'Image {prediction["img_id"]!r}: instance {number} has the score {scores[number]}; '
            'the weights may have diverged in training.'
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f'Image {prediction["img_id"]!r}: the model predicts label {labels.max()}, but the '
            f'data set has {num_classes} classes: check num_classes.'
        )


def drop_duplicates(results: list, image_id: Callable) -> list:
    """Keep the first result of each image; samplers pad the last batches with repeated images."""
    return list({image_id(result): result for result in reversed(results)}.values())[::-1]
