"""Puts the mask of a box into the image, as mmdet's `FCNMaskHead` does, without PyTorch.

mmdet samples each pixel of the box on its own (`grid_sample`). Bilinear sampling on a grid of rows
and columns is a product of two small matrices with the mask, one for the rows and one for the
columns.
"""

from __future__ import annotations

import numpy as np


def paste_masks(
    masks: np.ndarray, boxes: np.ndarray, shape: tuple[int, int], threshold: float
) -> np.ndarray:
    """Masks of the size of the image.

    Args:
        masks: float32 (N, S, S), probabilities inside of the box.
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the image.
        shape: Height and width of the image.
        threshold: Pixels of this probability or more belong to the object.

    Returns:
        bool (N, H, W).
    """
    pasted = np.zeros((len(masks), *shape), bool)
    for mask, (x1, y1, x2, y2), target in zip(masks, boxes, pasted):
        rows, columns = region(y1, y2, shape[0]), region(x1, x2, shape[1])
        by_row = sampling_matrix(rows, y1, y2, mask.shape[0])
        by_column = sampling_matrix(columns, x1, x2, mask.shape[1])
        target[rows, columns] = by_row @ mask @ by_column.T >= threshold
    return pasted


def region(low: float, high: float, size: int) -> slice:
    """Pixels of an axis that a box may touch."""
    return slice(max(int(np.floor(low)) - 1, 0), min(int(np.ceil(high)) + 1, size))


def sampling_matrix(pixels: slice, low: float, high: float, size: int) -> np.ndarray:
    """Weights (n, size) of the mask's cells at the centres of n pixels; none outside of the mask.

    Cells of a box without extent count with their middle, as in mmdet.
    """
    centres = np.arange(pixels.start, pixels.stop, dtype=np.float32) + np.float32(0.5)
    with np.errstate(divide='ignore', invalid='ignore'):
        place = (centres - low) / (high - low) * 2 - 1
    place[~np.isfinite(place)] = 0
    place = ((place + 1) * size - 1) / 2
    return np.maximum(1 - np.abs(place[:, None] - np.arange(size, dtype=np.float32)), 0)
