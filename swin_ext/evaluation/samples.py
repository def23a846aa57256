"""What the metrics check of predictions and of their own environment."""
from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence

import numpy as np


def require(module: str, user: str) -> None:
    """Raise a `ModuleNotFoundError` that says how to install a module that is missing."""
    if importlib.util.find_spec(module) is None:
        package = module.replace('_', '-')
        raise ModuleNotFoundError(f'{user} needs {package}: pip install {package}')


def category_ids(content: dict, classes: Sequence[str], source: str) -> dict[str, int]:
    """Category ids of a COCO file by name, in the order of the file.

    Raises:
        ValueError: If one of `classes` is no category of it.
    """
    ids = {category['name']: category['id'] for category in content['categories']}
    missing = [name for name in classes if name not in ids]
    if missing:
        raise ValueError(f'{source} has no category {missing}; it has {list(ids)}, the data set '
                         f'{list(classes)}.')
    return ids


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
            'the weights may have diverged in training.')
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(
            f'Image {prediction["img_id"]!r}: the model predicts label {labels.max()}, but the '
            f'data set has {num_classes} classes: check num_classes.')


def drop_duplicates(results: list, image_id: Callable) -> list:
    """Keep the first result of each image; samplers pad the last batches with repeated images."""
    return list({image_id(result): result for result in reversed(results)}.values())[::-1]
