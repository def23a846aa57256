"""Frames and outlines of a study, as a page or a figure takes them."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import contourpy
import numpy as np
from PIL import Image

from swin_ext.inference.segmented_study import SegmentedStudy

MARGIN = 0.35  # around what was found, by its larger side: what lies beside a heart tells its place
MIN_CROP_PX = 48
# Larger crops, of finer pixels or without any structure, are made smaller for the page.
MAX_PICTURE_PX = 224
SHOWN_PERCENTILES = (0.5, 99.8)
WEBP_QUALITY = 80  # of grey frames; the outlines are drawn as lines above them


@dataclass(frozen=True)
class Crop:
    """The part of all frames that is shown, in pixels.

    Args:
        rows: From and to.
        columns: From and to.
        height: Of the picture in widths of a pixel, so that mm are equal down and along.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    height: float

    @property
    def width(self) -> int:
        return self.columns[1] - self.columns[0]

    def of(self, frame: np.ndarray) -> np.ndarray:
        """The part of a frame (H, W)."""
        return frame[slice(*self.rows), slice(*self.columns)]


def crop_of(study: SegmentedStudy) -> Crop:
    """A square in mm around all that was found, as far as frames reach; else the whole frame."""
    down_mm, along_mm = study.pixel_spacing_mm
    height, width = study.labels.shape[2:]
    found = study.labels.any((0, 1))
    if not found.any():
        return Crop((0, height), (0, width), height * down_mm / along_mm)
    ends = [np.flatnonzero(found.any(axis))[[0, -1]] for axis in (1, 0)]
    steps = (down_mm, along_mm)
    side_mm = max((last - first + 1) * step for (first, last), step in zip(ends, steps))
    side_mm = max(side_mm * (1 + MARGIN), MIN_CROP_PX * max(steps))
    ranges = []
    for (first, last), step, size in zip(ends, steps, (height, width)):
        wanted = min(size, math.ceil(side_mm / step))
        start = min(max(0, round((first + last + 1 - wanted) / 2)), size - wanted)
        ranges.append((start, start + wanted))
    rows, columns = ranges
    return Crop(rows, columns, (rows[1] - rows[0]) * down_mm / along_mm)


def outlines(labels: np.ndarray, label: int) -> list[np.ndarray]:
    """Closed outlines of a structure, each (points, 2) of x and y in pixels from the corner.

    They run half-way between the centres of a pixel inside and one outside.
    """
    padded = np.pad(labels == label, 1).astype(np.float32)
    # The padding moves pixel i to i + 1, and its centre lies at i + 0.5.
    return [line - 0.5 for line in contourpy.contour_generator(z=padded).lines(0.5)]


def svg_path(labels: np.ndarray, label: int, crop: Crop) -> str:
    """The outlines of a structure as the `d` of an SVG path, in widths of a pixel."""
    cropped = crop.of(labels)
    scale = np.array([1, crop.height / cropped.shape[0]])
    parts = []
    for line in outlines(cropped, label):
        points = ' '.join(f'{x:.5g} {y:.5g}' for x, y in np.round(line[:-1] * scale, 1))
        parts.append(f'M{points}Z')
    return ''.join(parts)


def for_eyes(images: np.ndarray, crop: Crop) -> np.ndarray:
    """The crop of all images, (T, S, h, w), the grey levels of each slice spread over all 256.

    The limits are those of a slice over all its phases, so that a cine does not flicker.
    """
    cropped = images[:, :, slice(*crop.rows), slice(*crop.columns)].astype(np.float32)
    low, high = np.percentile(cropped, SHOWN_PERCENTILES, axis=(0, 2, 3), keepdims=True)
    spread = (cropped - low) * (255 / np.maximum(high - low, 1))
    return np.clip(np.rint(spread), 0, 255).astype(np.uint8)


def webp_uri(pixels: np.ndarray) -> str:
    """A grey picture as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'WEBP', quality=WEBP_QUALITY, method=4)
    return 'data:image/webp;base64,' + base64.b64encode(file.getvalue()).decode('ascii')


def shrunk(pixels: np.ndarray) -> np.ndarray:
    """The picture, no side of it larger than `MAX_PICTURE_PX`."""
    factor = MAX_PICTURE_PX / max(pixels.shape)
    if factor >= 1:
        return np.ascontiguousarray(pixels)
    size = [max(1, round(side * factor)) for side in reversed(pixels.shape)]
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def sheet_of(frames: np.ndarray, columns: int) -> np.ndarray:
    """Frames (N, H, W) side by side in rows of `columns`; the last row is filled with black."""
    count, height, width = frames.shape
    rows = math.ceil(count / columns)
    padded = np.zeros((rows * columns, height, width), np.uint8)
    padded[:count] = frames
    grid = padded.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return grid.reshape(rows * height, columns * width)
