"""Contour text files as masks: one `x y` pair in pixels per line, as in Sunnybrook's data."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np

from swin_ext.conversion.study import ConversionError

# Contours of one observer cross now and then where the wall is thin; an outer contour that misses
# this part of the cavity belongs to another frame.
MAX_CAVITY_OUTSIDE = 0.1


def read_contour(path: Path, height: int, width: int) -> np.ndarray:
    """Polygon (points, 2) of x, y in pixels.

    Raises:
        ConversionError: If the file holds no polygon, or one that leaves the image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of an empty file, which is an error below
            polygon = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise ConversionError(
            'it is no list of x y pairs', 'Restore the contour file', path
        ) from error
    if (
        polygon.ndim != 2
        or polygon.shape[1] != 2
        or len(polygon) < 3
        or not np.all(np.isfinite(polygon))
    ):
        raise ConversionError(
            f'it holds {len(polygon)} points, but a contour needs three or more pairs of numbers',
            'Restore the contour file',
            path,
        )
    if np.any(polygon < 0) or np.any(polygon >= [width, height]):
        (x0, y0), (x1, y1) = polygon.min(0), polygon.max(0)
        raise ConversionError(
            f'its contour (x {x0:g} to {x1:g}, y {y0:g} to {y1:g}) leaves the image of {width} x '
            f'{height} px',
            'Check that it was drawn on this frame, in pixels',
            path,
        )
    return polygon


def fill_contour(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask of the pixels inside a polygon and under its outline.

    A point belongs to the pixel that it lies in, (floor(x), floor(y)): observers click pixels. So
    the mask is about half a pixel wider all around than the polygon itself.
    """
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [np.floor(polygon).astype(np.int32)], 1)
    return mask.astype(bool)


def fill_ring(inner: np.ndarray, outer: np.ndarray, path: Path) -> np.ndarray:
    """Myocardium: the filled outer contour without the filled inner one.

    Raises:
        ConversionError: If the outer contour does not enclose the inner one.
    """
    outside = (inner & ~outer).sum() / inner.sum()
    if outside > MAX_CAVITY_OUTSIDE:
        raise ConversionError(
            f'{outside:.0%} of the area inside the inner contour lies outside the outer one',
            'Check that both were drawn on the same frame',
            path,
        )
    return outer & ~inner


def polygon_area(polygon: np.ndarray) -> float:
    """Area of a closed polygon (points, 2) in squared pixels, by the shoelace formula."""
    x, y = polygon.T
    return abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
