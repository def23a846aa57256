"""Place: frames as stacks of parallel slices, numbered by position and never by rank."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.study.frames import Frame
from swin_ext.study.geometry import (
    SAME_POSITION_MM,
    SLICE_RANGE_MM,
    distinct_positions,
    plane_name,
    regular_steps,
    same_axes,
    same_plane,
)
from swin_ext.study.phases import order_in_time

# SpacingBetweenSlices and SliceLocation that differ from the positions by more contradict them.
GAP_TOLERANCE = 0.05


@dataclass(frozen=True)
class StackSlice:
    """A place within a stack, with its frames by phase.

    Args:
        number: Counted from 0 along the normal; a missing slice leaves its number out.
        position_mm: Along the normal of the stack; None where nothing in the header says it.
        frames: By position in the cardiac cycle, from 0.
    """

    number: int
    position_mm: float | None
    frames: dict[int, Frame]


@dataclass(frozen=True)
class Stack:
    """Parallel slices of one acquisition.

    Args:
        slices: Sorted by number.
        normal: Unit vector along which slices are numbered.
        spacing_mm: Distance of pixel centres down the rows and along them.
        slice_spacing_mm: Distance of neighbouring slices along the normal; None where it is not
            known or differs from slice to slice. A volume is the area times this, summed over the
            slices that are there: gaps are not filled.
        num_phases: Positions in the cardiac cycle.
        time_source: What ordered the frames in time: DICOM keyword, 'file' or None for one phase.
        warnings: What a reader of its figures should know.
    """

    slices: tuple[StackSlice, ...]
    normal: tuple[float, float, float] | None
    spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None
    num_phases: int
    time_source: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def plane(self) -> str | None:
        """'axial', 'coronal', 'sagittal' or 'oblique', as the axes of a heart are."""
        return None if self.normal is None else plane_name(np.array(self.normal))

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of slices that are missing between others."""
        found = {item.number for item in self.slices}
        return tuple(number for number in range(max(found) + 1) if number not in found)

    def frames(self) -> list[tuple[StackSlice, int, Frame]]:
        """All frames with their slice and phase, slice by slice."""
        return [
            (item, phase, frame)
            for item in self.slices
            for phase, frame in sorted(item.frames.items())
        ]


class Refused(NamedTuple):
    """Frames that belong together, but cannot be ordered."""

    frames: tuple[Frame, ...]
    error: StudyError


@dataclass
class Stacks:
    """What became of the frames of a study."""

    stacks: list[Stack] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unplaced: list[Frame] = field(default_factory=list)


def build_stacks(frames: list[Frame]) -> Stacks:
    """Put the frames of a study in their places, in the order of their first frame.

    A stack has one orientation (normals of opposite sign are one), one matrix size, one pixel
    spacing and one series; series of a single slice each, as many scanners store a short-axis
    cine, are one stack if nothing but the position tells them apart.
    """
    result = Stacks()
    for group in _join_single_slices(_groups(frames, result.unplaced)):
        try:
            result.stacks.append(_stack_of(group))
        except StudyError as error:
            result.refused.append(Refused(tuple(group), error))
    return result


def choose_short_axis(stacks: list[Stack]) -> tuple[Stack | None, list[tuple[Stack, str]]]:
    """The stack that is most probably the short-axis cine, and why each other one is not.

    Geometry alone: several phases go before one, oblique planes before those along an axis of the
    body, then the number of slices and of phases count.
    """

    def rank(stack: Stack) -> tuple:
        return (
            stack.num_phases > 1,
            stack.plane == 'oblique',
            len(stack.slices),
            stack.num_phases,
        )

    if not stacks:
        return None, []
    chosen = max(stacks, key=rank)
    reasons = (
        'has one phase only',
        'lies along an axis of the body',
        'has fewer slices',
        'has fewer phases',
    )
    others = []
    for stack in stacks:
        if stack is not chosen:
            differing = [i for i, (a, b) in enumerate(zip(rank(stack), rank(chosen))) if a != b]
            others.append(
                (stack, reasons[differing[0]] if differing else 'is like the chosen one, but later')
            )
    return chosen, others


def _groups(frames: list[Frame], unplaced: list[Frame]) -> list[list[Frame]]:
    """Frames of one series, orientation, matrix and pixel spacing; those without a place go."""
    groups: list[list[Frame]] = []
    for frame in frames:
        if _location(frame) is None:
            unplaced.append(frame)
            continue
        for group in groups:
            if frame.series_uid == group[0].series_uid and _alike(frame, group[0]):
                group.append(frame)
                break
        else:
            groups.append([frame])
    return groups


def _alike(one: Frame, other: Frame) -> bool:
    return (
        (one.height, one.width) == (other.height, other.width)
        and all(math.isclose(*pair, rel_tol=1e-3) for pair in zip(one.spacing_mm, other.spacing_mm))
        and (one.position_mm is None) == (other.position_mm is None)
        and same_plane(one.normal, other.normal)
    )


def _location(frame: Frame) -> float | None:
    return frame.slice_location_mm if frame.position_mm is None else frame.position_mm


def _positions(group: list[Frame]) -> list[float]:
    """Positions along the normal of the first frame."""
    return [
        _location(frame)
        * (-1 if frame.position_mm is not None and np.dot(frame.normal, group[0].normal) < 0 else 1)
        for frame in group
    ]


def _join_single_slices(groups: list[list[Frame]]) -> list[list[Frame]]:
    joined: list[list[Frame]] = []
    for group in groups:
        if len(distinct_positions(_positions(group))) == 1:
            for other in joined:
                both = other + group
                places = len(distinct_positions(_positions(both)))
                per_series = defaultdict(int)
                for frame in both:
                    per_series[frame.series_uid] += 1
                # As many frames in each series, and each series at a place of its own.
                if (
                    _alike(group[0], other[0])
                    and group[0].series_uid not in {frame.series_uid for frame in other}
                    and places == len(per_series)
                    and len(set(per_series.values())) == 1
                ):
                    other.extend(group)
                    break
            else:
                joined.append(list(group))
        else:
            joined.append(list(group))
    return joined


def _stack_of(group: list[Frame]) -> Stack:
    warnings: list[str] = []
    positions = _positions(group)
    places = distinct_positions(positions)
    if len(places) == 1:
        _must_share_place(group, positions)
    by_place: list[list[Frame]] = [[] for _ in places]
    for frame, position in zip(group, positions):
        by_place[int(np.searchsorted(places, position + 1e-9, side='right')) - 1].append(frame)
    spacing, numbers = _slice_spacing(group, places, warnings)
    order = order_in_time(by_place)
    warnings += order.warnings
    warnings += _out_of_line(group)
    if group[0].position_mm is None:
        warnings.append('places are those of SliceLocation, as the header has no position')
    slices = []
    for number, place, members in zip(numbers, places, by_place):
        frames = {order.phase_of[id(frame)]: frame for frame in members}
        slices.append(StackSlice(number, place, frames))
    return Stack(
        tuple(slices),
        group[0].normal,
        group[0].spacing_mm,
        spacing,
        order.num_phases,
        order.source,
        tuple(warnings),
    )


def _must_share_place(group: list[Frame], positions: list[float]) -> None:
    """Refuse a stack whose slices all seem to be at one place, as positions in metres are."""
    if len(group) > 1 and np.diff(np.sort(positions)).min() > SAME_POSITION_MM / 100:
        raise StudyError(
            f'each of {len(group)} images has a position of its own, but all within '
            f'{SAME_POSITION_MM:g} mm',
            'Correct the positions, which are in mm',
            group[0].path,
        )


def _out_of_line(group: list[Frame]) -> list[str]:
    """Warn where images do not lie straight above each other; areas and volumes stay right."""
    first = group[0]
    turned = sum(not same_axes(frame.axes, first.axes) for frame in group)
    if turned:
        return [
            f'{turned} of {len(group)} images are turned or mirrored within their plane against '
            'the first one: volumes are right, but not distances in 3-D'
        ]
    if first.corner_mm is None or first.normal is None:
        return []
    offsets = np.array([frame.corner_mm for frame in group]) - first.corner_mm
    normal = np.array(first.normal)
    shifts = np.linalg.norm(offsets - np.outer(offsets @ normal, normal), axis=1)
    if shifts.max() <= max(first.spacing_mm):
        return []
    return [
        f'images are shifted within their plane by up to {shifts.max():.1f} mm: volumes are right, '
        'but not distances in 3-D'
    ]


def _is_distance(gap: float | None) -> bool:
    return gap is not None and SLICE_RANGE_MM[0] <= abs(gap) <= SLICE_RANGE_MM[1]


def _slice_spacing(
    group: list[Frame], places: list[float], warnings: list[str]
) -> tuple[float | None, tuple[int, ...]]:
    """Distance of slices and their numbers; positions go before what tags say of distances."""
    gaps = {abs(frame.slice_gap_mm) for frame in group if _is_distance(frame.slice_gap_mm)}
    said = gaps.pop() if len(gaps) == 1 else None
    if any(frame.slice_gap_mm and frame.slice_gap_mm < 0 for frame in group):
        warnings.append('SpacingBetweenSlices is negative; its size is taken')
    if len(places) == 1:
        thickness = {frame.thickness_mm for frame in group if frame.thickness_mm}
        if said is None and len(thickness) == 1 and 0 < min(thickness) <= SLICE_RANGE_MM[1]:
            warnings.append('a single slice counts by its SliceThickness')
            return thickness.pop(), (0,)
        return said, (0,)

    steps = regular_steps(places, said)
    if steps is None:
        distances = ', '.join(f'{gap:.2f}' for gap in np.diff(places))
        warnings.append(
            f'slices lie at irregular distances ({distances} mm), so no volume can be told'
        )
        return None, tuple(range(len(places)))
    if steps.distance > SLICE_RANGE_MM[1]:
        warnings.append(
            f'slices lie {steps.distance:g} mm apart, further than those of any stack, so no '
            'volume can be told'
        )
        return None, steps.numbers
    if said and abs(said - steps.distance) > max(GAP_TOLERANCE * steps.distance, SAME_POSITION_MM):
        if group[0].position_mm is None:
            raise StudyError(
                f'SpacingBetweenSlices says {said:g} mm, but SliceLocation {steps.distance:g} mm, '
                'and its header has no position',
                'Export it with ImagePositionPatient',
                group[0].path,
            )
        warnings.append(
            f'SpacingBetweenSlices says {said:g} mm, but slices lie {steps.distance:g} mm apart by '
            'their positions, which are taken'
        )
    if steps.missing:
        absent = sorted(set(range(steps.numbers[-1] + 1)) - set(steps.numbers))
        warnings.append(
            f'{steps.missing} of {steps.numbers[-1] + 1} slices missing (numbers '
            + ', '.join(map(str, absent))
            + '); the gap is not filled'
        )
    return steps.distance, steps.numbers
