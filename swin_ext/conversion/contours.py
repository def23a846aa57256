"""Contour text files as masks: one `x y` pair in pixels per line, as in Sunnybrook's data.

Pixel i covers i to i + 1, so that its centre lies at i + 0.5: moved by half a pixel like this,
Sunnybrook's contours run along the edges of their images more closely than with centres at i.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np

from swin_ext.conversion.choices import FILLS
from swin_ext.conversion.errors import ArgumentError, ConversionError

# Contours of one observer cross now and then where the wall is thin; an outer contour that misses
# this part of the cavity belongs to another frame.
MAX_CAVITY_OUTSIDE = 0.1
# Pixels by which the area inside a contour and its shoelace area may differ, for each pixel of its
# length: small loops where an outline crosses itself, and rounding.
LOOPS_PER_LENGTH = 0.25


def read_contour(path: Path, height: int, width: int) -> np.ndarray:
    """Polygon (points, 2) of x, y in pixels.

    Raises:
        ConversionError: If the file holds no polygon, or one that leaves the image or encloses
            parts of it several times.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of an empty file, which is an error below
            polygon = np.loadtxt(path, ndmin=2, encoding='utf-8-sig')
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
    if np.linalg.matrix_rank(polygon - polygon[0], tol=1e-6) < 2:
        raise ConversionError(
            'its points lie on one line, so that it encloses nothing',
            'Restore the contour file',
            path,
        )
    inside = np.count_nonzero(_winding_numbers(polygon - 0.5, height, width))
    length = np.linalg.norm(polygon - np.roll(polygon, -1, axis=0), axis=1).sum()
    if abs(inside - polygon_area(polygon)) > LOOPS_PER_LENGTH * length:
        raise ConversionError(
            f'its contour encloses {inside} px, but has an area of {polygon_area(polygon):.0f} px: '
            'it crosses itself, runs around twice, or is of several contours',
            'Draw it anew, or restore the contour file',
            path,
        )
    return polygon


def fill_contour(polygon: np.ndarray, height: int, width: int, fill: str = 'centres') -> np.ndarray:
    """Boolean mask (height, width) of a closed polygon (points, 2).

    Args:
        fill: 'centres' takes the pixels whose centre lies inside, so that the area is that of the
            polygon but for rounding. 'touched' also takes those under the outline, each point
            belonging to the pixel that it lies in: so some published masks were made, which are
            about half a pixel wider all around.
    """
    if fill == 'touched':
        mask = np.zeros((height, width), np.uint8)
        cv2.fillPoly(mask, [np.floor(polygon).astype(np.int32)], 1)
        return mask.astype(bool)
    if fill not in FILLS:
        raise ArgumentError(f'fill={fill!r} must be one of {FILLS}')
    mask = _winding_numbers(polygon - 0.5, height, width) != 0
    if not mask.any():  # smaller than a pixel: nothing that an observer drew is lost
        x, y = np.floor(polygon.mean(0)).astype(int)
        mask[y, x] = True
    return mask


def _winding_numbers(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """How often a closed polygon runs around each point (row, column), shape (height, width).

    Regions that a contour encloses twice, where it crosses itself, count as enclosed. A point on
    the outline is inside on the left and upper side and outside on the others, so that contours
    which share an edge neither overlap nor leave a gap, and areas have no bias.
    """
    (x0, y0), (x1, y1) = polygon.T, np.roll(polygon, -1, axis=0).T
    steps = np.zeros((height, width + 1), np.int64)
    for row in range(height):
        crossing = (np.minimum(y0, y1) <= row) & (row < np.maximum(y0, y1))
        start, end = x0[crossing], x1[crossing]
        x = start + (row - y0[crossing]) * (end - start) / (y1 - y0)[crossing]
        columns = np.clip(np.ceil(x), 0, width).astype(int)  # the first at or right of the outline
        np.add.at(steps[row], columns, np.where(y1 > y0, 1, -1)[crossing])
    return np.cumsum(steps, axis=1)[:, :width]


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
