"""A stack of DICOM frames as one grid of voxels, as NIfTI has it."""

from __future__ import annotations

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.study.stacks import Stack

SAME_DIRECTION = 0.01  # of a direction cosine: 0.6 degrees
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def grid_affine(stack: Stack, slice_spacing_mm: float, notes: list[str]) -> np.ndarray | None:
    """Affine (4, 4) from voxel (column, row, slice number) to mm (RAS) of a DICOM stack.

    By PS3.3, equation C.7.6.2.1-1; slices are counted along the normal of the stack.

    Args:
        slice_spacing_mm: Of the grid.
        notes: Is added what a grid cannot say.

    Returns:
        None where a header has no position.

    Raises:
        StudyError: If slices are turned against each other within their plane.
    """
    frames = {item.number: next(iter(item.frames.values())) for item in stack.slices}
    if any(frame.corner_mm is None or frame.axes is None for frame in frames.values()):
        return None
    first_number = min(frames)
    first = frames[first_number]
    for frame in frames.values():
        if np.abs(np.subtract(frame.axes, first.axes)).max() > SAME_DIRECTION:
            raise StudyError(
                'it is turned within its plane against another slice of the stack',
                'Choose a series whose slices have one orientation with --series',
                frame.path,
            )
    rows, columns = np.array(first.axes[:3]), np.array(first.axes[3:])
    normal = np.cross(rows, columns)
    normal /= np.linalg.norm(normal)
    affine = np.eye(4)
    affine[:3, 0] = rows * stack.spacing_mm[1]
    affine[:3, 1] = columns * stack.spacing_mm[0]
    affine[:3, 2] = normal * slice_spacing_mm
    affine[:3, 3] = np.array(first.corner_mm) - first_number * affine[:3, 2]
    shift = max(
        float(np.linalg.norm(np.subtract(frame.corner_mm, (affine @ [0, 0, number, 1])[:3])))
        for number, frame in frames.items()
    )
    if shift > min(stack.spacing_mm) / 2:
        notes.append(
            f'slices lie up to {shift:.1f} mm off a regular grid, which a NIfTI file cannot say; '
            'it has them on the grid'
        )
    return LPS_TO_RAS @ affine
