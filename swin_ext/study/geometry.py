"""Pure functions on planes, affines and positions. Lengths are in mm unless a name says more."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# What a cardiac MR image can have, from mice (0.1 mm pixels) to coarse localisers. Further apart
# than a factor of 1000, so that at most one of mm, metres and micrometres fits a given size.
PIXEL_RANGE_MM = (0.05, 10.0)
SLICE_RANGE_MM = (0.05, 50.0)
# Positions that differ by less are one slice: headers round, and breath-holds of a cine share one.
SAME_POSITION_MM = 0.1
# Of the distance of two slices; planning moves slices by rounding, not by more.
STEP_TOLERANCE = 0.1
SAME_DIRECTION_COSINE = 0.999  # 2.6 degrees
# A plane is named after an axis of the body within 20 degrees of it; short and long axes of a
# heart are further away in nearly everyone.
ALONG_AXIS_COSINE = 0.94


def plane_normal(orientation: np.ndarray) -> np.ndarray:
    """Unit normal (3,) of row and column direction cosines (6,), DICOM PS3.3, C.7.6.2.1.1.

    Raises:
        ValueError: If they are no two perpendicular unit vectors.
    """
    rows, columns = orientation[:3], orientation[3:]
    off = np.abs([rows @ rows - 1, columns @ columns - 1, rows @ columns])
    if not off.max() <= 0.04:  # so that NaN is refused, too
        raise ValueError('its row and column directions are no perpendicular unit vectors')
    normal = np.cross(rows, columns)
    return normal / np.linalg.norm(normal)


def affine_normal(affine: np.ndarray) -> np.ndarray:
    """Unit vector across the plane of the first two axes, on the side of the third."""
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal = normal / np.linalg.norm(normal)
    return normal if normal @ affine[:3, 2] >= 0 else -normal


def slice_distance(affine: np.ndarray) -> float:
    """Distance of neighbouring planes of the third axis along their normal.

    The length of the third column is larger where the volume is sheared.
    """
    return float(affine_normal(affine) @ affine[:3, 2])


def plane_name(normal: np.ndarray) -> str:
    """'sagittal', 'coronal', 'axial' or 'oblique'; for LPS and RAS alike."""
    axis = int(np.argmax(np.abs(normal)))
    names = ('sagittal', 'coronal', 'axial')
    return names[axis] if abs(normal[axis]) >= ALONG_AXIS_COSINE else 'oblique'


def same_plane(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Whether planes are parallel, whichever way their normals point."""
    if one is None or other is None:
        return one is other
    return abs(float(np.dot(one, other))) > SAME_DIRECTION_COSINE


def same_axes(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    """Whether rows and columns (6,) of two images run the same way."""
    if one is None or other is None:
        return one is other
    rows = float(np.dot(one[:3], other[:3]))
    columns = float(np.dot(one[3:], other[3:]))
    return min(rows, columns) > SAME_DIRECTION_COSINE


def is_plausible(spacing_mm: tuple[float, ...], slice_mm: float | None = None) -> bool:
    """Whether pixel spacing and slice distance can be those of a cardiac MR image."""
    low, high = PIXEL_RANGE_MM
    slice_low, slice_high = SLICE_RANGE_MM
    return all(low <= size <= high for size in spacing_mm) and (
        slice_mm is None or slice_low <= slice_mm <= slice_high
    )


def distinct_positions(positions: list[float]) -> list[float]:
    """Sorted positions, without those that are the same within `SAME_POSITION_MM`."""
    distinct: list[float] = []
    for position in sorted(positions):
        if not distinct or position - distinct[-1] > SAME_POSITION_MM:
            distinct.append(position)
    return distinct


class Steps(NamedTuple):
    """Positions on a regular grid: its distance and each position's number, from 0."""

    distance: float
    numbers: tuple[int, ...]

    @property
    def missing(self) -> int:
        return self.numbers[-1] + 1 - len(self.numbers)


def regular_steps(positions: list[float], expected: float | None = None) -> Steps | None:
    """Number sorted, distinct positions on a grid that a missing slice leaves a hole in.

    The grid's distance is the smallest one between neighbours; failing that, the `expected` one.
    None, if positions lie on neither, or if more would be missing than are there: then the
    smallest distance is that of two slices that belong to no common grid.
    """
    gaps = np.diff(positions)
    for distance in (gaps.min(), expected):
        if not distance:
            continue
        counts = np.rint(gaps / distance)
        if counts.min() < 1:
            continue
        mean = gaps.sum() / counts.sum()
        steps = Steps(float(mean), (0, *np.cumsum(counts).astype(int).tolist()))
        if np.all(np.abs(gaps - counts * mean) <= STEP_TOLERANCE * mean) and (
            steps.missing <= len(positions)
        ):
            return steps
    return None
