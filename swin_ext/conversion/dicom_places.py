"""Which labelled DICOM frames make one stack, and where in it they lie."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from swin_ext.conversion.reader_errors import warn_of
from swin_ext.study.frames import Frame
from swin_ext.study.phases import name_phases
from swin_ext.study.stacks import build_stacks


class Place(NamedTuple):
    """Where a labelled frame lies; all None, where its header does not say."""

    slice: int | None = None
    slice_spacing_mm: float | None = None
    frame: int | None = None
    phase: str | None = None
    doubts: tuple[str, ...] = ()  # of its stack


def place_frames(
    frames: list[Frame],
    numbered: dict[int, Frame],
    labelled: set[int],
    areas: dict[int, float],
    left_out: Counter,
) -> dict[int, Place]:
    """Slice, distance of slices and phase of the frames of the stack with most labels, by number.

    A volume is summed over one stack. So labelled frames of other stacks, such as a long axis
    beside the short one, are left out and counted, as are those that have no place; warnings of
    the stack are given. If no labelled frame has a place, all of them are kept without one.

    Args:
        numbered: The frames that have a number; `labelled` are the numbers of those with a label,
            `areas` the areas of their LV cavity.

    Raises:
        StudyError: If the frames of the stack cannot be ordered.
    """
    number_of = {id(frame): number for number, frame in numbered.items()}

    def count(members: Iterable[Frame]) -> int:
        return sum(number_of.get(id(frame)) in labelled for frame in members)

    found = build_stacks(frames)
    stack = max(
        found.stacks,
        key=lambda stack: (count(frame for _, _, frame in stack.frames()), len(stack.slices)),
        default=None,
    )
    placed = 0 if stack is None else count(frame for _, _, frame in stack.frames())
    for refused in found.refused:
        if count(refused.frames) > placed:
            raise refused.error
    if not placed:
        return {number: Place() for number in labelled}
    if placed < len(labelled):
        left_out['labelled frames of another orientation, series or size than the stack'] += (
            len(labelled) - placed
        )
    if stack.missing:
        left_out['slices that are missing between others; gaps are not filled'] += len(
            stack.missing
        )
    where = {
        number_of[id(frame)]: (item.number, phase)
        for item, phase, frame in stack.frames()
        if id(frame) in number_of
    }
    cine = stack.num_phases > 1
    names, notes = {}, []
    if cine:
        names, notes = name_phases(
            {where[number]: area for number, area in areas.items() if number in where}
        )
    doubts = (*stack.warnings, *notes)
    warn_of(doubts, frames[0].path.parent)
    return {
        number: Place(
            slice_number, stack.slice_spacing_mm, phase if cine else None, names.get(phase), doubts
        )
        for number, (slice_number, phase) in where.items()
    }


def slices_beyond(places: dict[int, Place], labelled: set[int]) -> set[int]:
    """Numbers of unlabelled frames above or below all labelled ones of their phase.

    There observers saw nothing to outline; between labelled slices, a label is missing.
    """
    ends: dict[int | None, list[int]] = defaultdict(list)
    for number in labelled & places.keys():
        if places[number].slice is not None:
            ends[places[number].frame].append(places[number].slice)
    return {
        number
        for number, place in places.items()
        if number not in labelled
        and place.frame in ends
        and not min(ends[place.frame]) <= place.slice <= max(ends[place.frame])
    }
