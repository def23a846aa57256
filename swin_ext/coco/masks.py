"""Masks of the annotation format: run-length encodings and polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as mask_utils


def to_rle(segmentation: dict | list, height: int, width: int) -> dict:
    """Return a COCO segmentation of any kind as compressed RLE."""
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, height, width))
    if isinstance(segmentation['counts'], list):
        return mask_utils.frPyObjects(segmentation, height, width)
    return segmentation


def count_parts(rle: dict, box: Sequence[float]) -> int:
    """Number of 8-connected parts of a mask whose box [x, y, width, height] is known."""
    x, y, width, height = (int(value) for value in box)
    crop = mask_utils.decode(rle)[y : y + height, x : x + width]
    return cv2.connectedComponents(np.ascontiguousarray(crop), connectivity=8)[0] - 1


def overlap(mask: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Intersection over union and Dice coefficient of two boolean masks; NaN if both are empty."""
    size, size_other = np.count_nonzero(mask), np.count_nonzero(other)
    if not size and not size_other:
        return math.nan, math.nan
    shared = np.count_nonzero(mask & other)
    return shared / (size + size_other - shared), 2 * shared / (size + size_other)
