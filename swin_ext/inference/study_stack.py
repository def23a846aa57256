"""The stack of a study that is segmented: where each frame's pixels are, and its geometry."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swin_ext.images.reading import open_image
from swin_ext.inference.inputs import FoundStudy, InputError
from swin_ext.inference.segmented_study import BodySize
from swin_ext.study.frames import Frame
from swin_ext.study.reading import nifti_stack, read_study
from swin_ext.study.stacks import Stack

UNKNOWN_MM = 1.0
# What says when in the cycle a frame was taken, in ms.
TIME_TAGS = ('TriggerTime', 'NominalCardiacTriggerDelayTime', 'FrameTime')
MS_PER_UNIT = {8: 1000.0, 16: 1.0, 24: 0.001}  # of NIfTI's xyzt_units, bits 3 to 5


class FramePlace(NamedTuple):
    """Where the pixels of a frame are."""

    path: Path
    slice_index: int | None
    frame_index: int | None
    header: Frame | None = None


@dataclass(frozen=True)
class StudyStack:
    """T phases of S slices; nothing of their pixels is read.

    Args:
        kind: 'dicom', 'nifti' or 'pictures'.
        frames: Where they are, by (phase, slice); a missing frame is left out.
        num_phases: T.
        slice_numbers: (S,), rising; a missing slice leaves its number out.
        pixel_spacing_mm, slice_positions_mm, slice_spacing_mm, times_ms, assumptions, left_out,
            body: See `SegmentedStudy`.
        affine: (4, 4) from (column, row, slice number) to mm (RAS); None where nothing says it.
    """

    kind: str
    frames: dict[tuple[int, int], FramePlace]
    num_phases: int
    slice_numbers: tuple[int, ...]
    pixel_spacing_mm: tuple[float, float]
    slice_positions_mm: np.ndarray
    slice_spacing_mm: float
    times_ms: np.ndarray | None
    affine: np.ndarray | None
    assumptions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    body: BodySize = BodySize()


def read_stack(
    found: FoundStudy,
    series: str | None = None,
    spacing_mm: tuple[float, ...] | None = None,
    allow_burned_in: bool = False,
) -> StudyStack:
    """Read the headers of a study and choose its short-axis cine.

    Args:
        series: Which one to take, see `short_axis.choose`.
        spacing_mm: Distance of rows, of columns and, if given, of slices, for files without them.
        allow_burned_in: Take images whose header says that text is burned in.

    Raises:
        StudyError: If the study has no stack that can be segmented.
        InputError: If a series is asked for of files that have none.
        ConversionError: If text is burned into the images.
    """
    if found.problem is not None:
        raise found.problem
    if series is not None and found.kind != 'dicom':
        raise InputError(f'{found.files[0]} has no series: leave --series out, it is for DICOM.')
    if found.kind == 'dicom':
        return _dicom(found, series, spacing_mm, allow_burned_in)
    if found.kind == 'nifti':
        return _nifti(found.files[0], spacing_mm)
    return _pictures(found.files, spacing_mm)


def _dicom(
    found: FoundStudy,
    series: str | None,
    spacing_mm: tuple[float, ...] | None,
    allow_burned_in: bool,
) -> StudyStack:
    from swin_ext.conversion.burned_in import check_burned_in
    from swin_ext.inference.short_axis import choose
    from swin_ext.study.grid import grid_affine

    study = read_study(found.files, spacing_mm and spacing_mm[:2])
    choice = choose(study, series, found.is_named, found.files[0].parent)
    stack = choice.stack
    frames = {
        (phase, index): FramePlace(frame.path, None, frame.frame_index, frame)
        for index, item in enumerate(stack.slices)
        for phase, frame in item.frames.items()
    }
    paths = list(dict.fromkeys(place.path for place in frames.values()))
    check_burned_in(paths, allow_burned_in, Counter())
    assumptions = [*choice.assumptions, *stack.warnings]
    positions, distance = _slice_places(stack, spacing_mm, assumptions)
    left_out = [*choice.left_out, *_counted([item.reason for item in study.left_out])]
    if found.unreadable:
        left_out.append(f'{len(found.unreadable)} files: they cannot be read as DICOM')
    return StudyStack(
        'dicom',
        frames,
        stack.num_phases,
        tuple(item.number for item in stack.slices),
        stack.spacing_mm,
        positions,
        distance,
        _dicom_times(frames, stack.num_phases),
        grid_affine(stack, distance, assumptions),
        tuple(assumptions),
        tuple(left_out),
        _body_size(paths[0]),
    )


def _counted(reasons: list[str]) -> list[str]:
    return [f'{count} files: {reason}' for reason, count in Counter(reasons).items()]


def _slice_places(
    stack: Stack, spacing_mm: tuple[float, ...] | None, assumptions: list[str]
) -> tuple[np.ndarray, float]:
    """Positions (S,) along the normal and the distance of slices."""
    numbers = np.array([item.number for item in stack.slices], float)
    positions = [item.position_mm for item in stack.slices]
    distance = stack.slice_spacing_mm
    if distance is None and len(numbers) > 1 and None not in positions:
        distance = float(np.ptp(positions) / np.ptp(numbers))
        assumptions.append(
            f'slices are at irregular distances; each counts half-way to its neighbours, and files '
            f'have the mean of {distance:.2f} mm'
        )
    if distance is None:
        distance = _slice_spacing(spacing_mm, assumptions)
    if None in positions:
        return numbers * distance, distance
    return np.array(positions, float), distance


def _slice_spacing(spacing_mm: tuple[float, ...] | None, assumptions: list[str]) -> float:
    if spacing_mm is not None and len(spacing_mm) == 3:
        assumptions.append(f'slices are {spacing_mm[2]:g} mm apart as the user said')
        return spacing_mm[2]
    assumptions.append(
        f'the distance of slices is not known and taken as {UNKNOWN_MM:g} mm: volumes are wrong'
    )
    return UNKNOWN_MM


def _dicom_times(frames: dict[tuple[int, int], FramePlace], num_phases: int) -> np.ndarray | None:
    """Median over the slices of each phase, by the first tag that all frames have."""
    if num_phases == 1:
        return None
    for tag in TIME_TAGS:
        by_phase: list[list[float]] = [[] for _ in range(num_phases)]
        for (phase, _), place in frames.items():
            if tag in place.header.times:
                by_phase[phase].append(place.header.times[tag])
        if sum(map(len, by_phase)) == len(frames) and all(by_phase):
            times = np.array([np.median(values) for values in by_phase])
            if (np.diff(times) > 0).all():
                return times
    return None


def _body_size(path: Path) -> BodySize:
    """Height and weight as the header has them; whoever uses them asks whether they can be."""
    from swin_ext.study.dicom_headers import read_header

    values = []
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # they would print values of the header
        header = read_header(path, ('PatientSize', 'PatientWeight'))
        for keyword in ('PatientSize', 'PatientWeight'):
            try:
                value = float(header.get(keyword))
            except Exception:  # missing, or parsing raises one of many types
                value = 0.0
            values.append(value if 0 < value < np.inf else None)
    return BodySize(*values)


def _nifti(path: Path, spacing_mm: tuple[float, ...] | None) -> StudyStack:
    from swin_ext.study.nifti_geometry import open_nifti, read_geometry

    stack = nifti_stack(path, spacing_mm and spacing_mm[:2])
    geometry = read_geometry(path, spacing_mm and spacing_mm[:2])
    assumptions = list(stack.warnings)
    positions, distance = _slice_places(stack, spacing_mm, assumptions)
    header = open_nifti(path).header
    step = float(header['pixdim'][4]) * MS_PER_UNIT.get(int(header['xyzt_units']) & 56, 0.0)
    phases = np.arange(stack.num_phases)
    return StudyStack(
        'nifti',
        {
            (phase, index): FramePlace(path, frame.slice_index, frame.frame_index)
            for index, item in enumerate(stack.slices)
            for phase, frame in item.frames.items()
        },
        stack.num_phases,
        tuple(item.number for item in stack.slices),
        stack.spacing_mm,
        positions,
        distance,
        phases * step if stack.num_phases > 1 and np.isfinite(step) and step > 0 else None,
        geometry.affine_mm,
        tuple(assumptions),
    )


def _pictures(paths: tuple[Path, ...], spacing_mm: tuple[float, ...] | None) -> StudyStack:
    file = open_image(paths[0])
    if len(paths) == 1:
        num_slices, num_phases = file.num_slices, file.num_frames
        frames = {
            (t, z): FramePlace(paths[0], z, t) for t in range(num_phases) for z in range(num_slices)
        }
    else:
        num_slices, num_phases = len(paths), 1
        frames = {(0, z): FramePlace(path, None, None) for z, path in enumerate(paths)}
    assumptions = []
    if spacing_mm is None:
        assumptions.append(
            f'the files have no pixel spacing, which is taken as {UNKNOWN_MM:g} mm: areas and '
            'volumes are wrong'
        )
    else:
        assumptions.append('pixel spacing is what the user said')
    distance = _slice_spacing(spacing_mm, assumptions)
    if len(paths) > 1:
        assumptions.append('pictures are taken as slices in the order of their names')
    return StudyStack(
        'pictures',
        frames,
        num_phases,
        tuple(range(num_slices)),
        (UNKNOWN_MM, UNKNOWN_MM) if spacing_mm is None else (spacing_mm[0], spacing_mm[1]),
        np.arange(num_slices) * distance,
        distance,
        None,
        None,
        tuple(assumptions),
    )
