"""Time: which position in the cardiac cycle a frame has, and which positions are ED and ES."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.study.frames import Frame

# What says when in the cycle a frame was taken, the most direct first.
CYCLE_TAGS = (
    'TriggerTime',
    'NominalCardiacTriggerDelayTime',
    'NominalPercentageOfCardiacPhase',
    'TemporalPositionIdentifier',
    'TemporalPositionIndex',
    'FrameTime',
)
IDENTIFIERS = ('TemporalPositionIdentifier', 'TemporalPositionIndex')
# What only says in which order frames were acquired or made. ContentTime, when a frame was
# reconstructed, contradicts nothing: it serves where there is nothing else.
CLOCK_TAGS = ('AcquisitionTime',)
LAST_RESORT = 'ContentTime'
DAY_S = 86_400
LONGEST_SLICE_S = 3_600  # breath-holds take 20 s, with repeats and pauses
NUMBER = 'InstanceNumber'


class TimeOrder(NamedTuple):
    """Phases of a stack.

    Args:
        phase_of: Position in the cycle, from 0, by `id` of the frame.
        num_phases: Positions that there are or are said to be.
        source: The DICOM keyword that ordered the frames; None if there is one frame per slice.
        warnings: What was missing or passed over.
    """

    phase_of: dict[int, int]
    num_phases: int
    source: str | None
    warnings: list[str]


def order_in_time(slices: list[list[Frame]]) -> TimeOrder:
    """Number the frames of each slice by their time.

    Whatever tag says the time, it is ranked within each slice: the heart rate changes from one
    breath-hold to the next, and series are numbered slice by slice or phase by phase. Every tag
    that tells all frames of a slice apart must say the same order. Only where frames are missing,
    tags must also say which.

    Raises:
        StudyError: If tags contradict each other, frames share place and time, or nothing tells
            their order.
    """
    warnings: list[str] = []
    if all(len(frames) == 1 for frames in slices):
        return TimeOrder({id(frames[0]): 0 for frames in slices}, 1, None, warnings)
    source, ranks = _rank(slices, warnings)
    said = {frame.phases_said for frames in slices for frame in frames}
    expected = said.pop() if len(said) == 1 else None
    most = max(map(len, slices))
    if expected and expected < most:
        if source not in CYCLE_TAGS:
            raise StudyError(
                f'CardiacNumberOfImages says {expected} phases, but {most} images lie in one '
                f'place and {source} tells them apart',
                'Keep one acquisition in the folder, or export it with TriggerTime',
                slices[0][0].path,
            )
        warnings.append(
            f'CardiacNumberOfImages says {expected} phases, but a slice has {most} by {source}'
        )
        expected = None
    if {len(frames) for frames in slices} == {expected or most}:
        phases, num_phases = ranks, most
    else:
        phases, num_phases = _incomplete(slices, source, ranks, expected, warnings)
    phase_of = {
        id(frame): phase
        for frames, numbers in zip(slices, phases)
        for frame, phase in zip(frames, numbers)
    }
    return TimeOrder(phase_of, num_phases, source, warnings)


def _rank(slices: list[list[Frame]], warnings: list[str]) -> tuple[str, list[list[int]]]:
    """The tag to believe and the rank of each frame within its slice."""
    several = [frames for frames in slices if len(frames) > 1]
    orders: dict[str, list[list[int]]] = {}
    repeating: dict[str, tuple[Frame, Frame]] = {}
    for tag in (*CYCLE_TAGS, *CLOCK_TAGS, NUMBER, LAST_RESORT):
        values = [_values(frames, tag) for frames in slices]
        lacking = sum(value is None for row in values for value in row)
        if lacking:
            total = sum(map(len, slices))
            if lacking < total and tag in CYCLE_TAGS:
                warnings.append(f'{tag} is not used: {lacking} of {total} frames lack it')
            continue
        if all(len(set(row)) == len(row) for row in values):
            orders[tag] = [np.argsort(np.argsort(row)).tolist() for row in values]
        elif any(len(set(row)) > 1 for row in values):
            repeating[tag] = _first_repeated(several, tag)
    cycle = [tag for tag in CYCLE_TAGS if tag in orders]
    same_time = [tag for tag in CYCLE_TAGS if tag in repeating]
    if same_time and not cycle:
        one, other = repeating[same_time[0]]
        raise StudyError(
            f'it has the place and the {same_time[0]} of another image',
            f'Keep one of it and {other.path.name}',
            one.path,
        )
    trusted = cycle + [tag for tag in CLOCK_TAGS if tag in orders]
    for tag in trusted[1:]:
        _must_agree(trusted[0], tag, orders, slices)
    if NUMBER in orders and trusted:
        if not cycle:
            _must_agree(trusted[0], NUMBER, orders, slices)
        elif orders[NUMBER] != orders[cycle[0]]:
            warnings.append(f'images are not numbered in the order of {cycle[0]}, which is taken')
    candidates = trusted + [tag for tag in (NUMBER, LAST_RESORT) if tag in orders]
    if not candidates:
        raise StudyError(
            'it shares its place with other images, and no tag (such as '
            f'{CYCLE_TAGS[0]}, {CYCLE_TAGS[3]} or {NUMBER}) says their order in time',
            'Export it with these tags, or keep one image per slice',
            several[0][0].path,
        )
    return candidates[0], orders[candidates[0]]


def _values(frames: list[Frame], tag: str) -> list[float | None]:
    """What a tag says of the frames of a slice; a clock that passes midnight goes on.

    Raises:
        StudyError: If images are said to be taken hours apart, which no date tells the order of.
    """
    values = [_value(frame, tag) for frame in frames]
    if tag not in (*CLOCK_TAGS, LAST_RESORT) or None in values:
        return values
    if max(values) - min(values) <= DAY_S / 2:
        return values
    values = [value + DAY_S if value < DAY_S / 2 else value for value in values]
    if max(values) - min(values) <= LONGEST_SLICE_S:
        return values
    if tag == LAST_RESORT:  # of reconstructions, which can be made anew
        return [None] * len(frames)
    raise StudyError(
        f'by their {tag} the images of its slice were taken half a day apart',
        'Keep one acquisition in the folder, or correct the times',
        frames[0].path,
    )


def _value(frame: Frame, tag: str) -> float | None:
    return frame.number if tag == NUMBER else frame.times.get(tag)


def _first_repeated(several: list[list[Frame]], tag: str) -> tuple[Frame, Frame]:
    for frames in several:
        seen: dict[float, Frame] = {}
        for frame in frames:
            value = _value(frame, tag)
            if value in seen:
                return frame, seen[value]
            seen[value] = frame
    raise AssertionError('called for a tag that repeats')


def _must_agree(one: str, other: str, orders: dict, slices: list[list[Frame]]) -> None:
    for frames, first, second in zip(slices, orders[one], orders[other]):
        if first != second:
            index = next(i for i, (a, b) in enumerate(zip(first, second)) if a != b)
            raise StudyError(
                f'{one} and {other} contradict each other: of {len(frames)} frames of its slice '
                f'it is number {first[index] + 1} by one and {second[index] + 1} by the other',
                'Correct or remove the wrong tag',
                frames[index].path,
            )


def _incomplete(
    slices: list[list[Frame]],
    source: str,
    ranks: list[list[int]],
    expected: int | None,
    warnings: list[str],
) -> tuple[list[list[int]], int]:
    """Phases of a cine that lacks frames, so that ranks in different slices may differ."""
    found = (
        _by_identifier(slices, ranks)
        or _by_number(slices, ranks, expected)
        or _by_timeline(slices, source)
    )
    if found is None and len(set(map(len, slices))) == 1:
        found = ranks
    if found is None:
        counts = sorted(set(map(len, slices)))
        raise StudyError(
            f'slices have different numbers of phases ({", ".join(map(str, counts))}), and no tag '
            'says which ones are missing',
            'Add the missing images',
            min(slices, key=len)[0].path,
        )
    num_phases = max(expected or 0, max(map(max, found)) + 1)
    total = num_phases * len(slices)
    lacking = total - sum(map(len, slices))
    # Where most are missing, someone chose ED and ES; where few are, they got lost.
    if lacking < total / 2:
        warnings.append(f'{lacking} of {total} frames of the cardiac cycle are missing')
    return found, num_phases


def _by_identifier(slices: list[list[Frame]], ranks: list[list[int]]) -> list[list[int]] | None:
    for tag in IDENTIFIERS:
        values = [[_value(frame, tag) for frame in frames] for frames in slices]
        if all(value is not None for row in values for value in row):
            phases = [[int(value) - 1 for value in row] for row in values]
            if _follows(phases, ranks):
                return phases
    return None


def _by_number(
    slices: list[list[Frame]], ranks: list[list[int]], expected: int | None
) -> list[list[int]] | None:
    """Phases by InstanceNumber, if exactly one way of numbering fits the positions.

    Slice by slice, all numbers of a slice lie in a block of as many as there are phases; phase by
    phase, they have the same remainder by the number of slices.
    """
    numbers = [[frame.number for frame in frames] for frames in slices]
    if any(number is None or number < 1 for row in numbers for number in row):
        return None
    ways = []
    for divisor, slice_first in ((expected, True), (len(slices), False)):
        if not divisor:
            continue
        pairs = [[divmod(number - 1, divisor) for number in row] for row in numbers]
        place, phase = (0, 1) if slice_first else (1, 0)
        places = [{pair[place] for pair in row} for row in pairs]
        phases = [[pair[phase] for pair in row] for row in pairs]
        if (
            all(len(row) == 1 for row in places)
            and len(set.union(*places)) == len(slices)
            and _follows(phases, ranks)
            and (not expected or max(map(max, phases)) < expected)
        ):
            ways.append(phases)
    return ways[0] if ways and all(way == ways[0] for way in ways) else None


def _by_timeline(slices: list[list[Frame]], source: str) -> list[list[int]] | None:
    """Phases by times that all slices share, within half of the shortest step between frames."""
    if source not in CYCLE_TAGS:
        return None
    times = [[_value(frame, source) for frame in frames] for frames in slices]
    step = min(np.diff(sorted(row)).min() for row in times if len(row) > 1)
    ordered = np.sort([time for row in times for time in row])
    clusters = np.split(ordered, np.flatnonzero(np.diff(ordered) > step / 2) + 1)
    if len(clusters) != max(map(len, slices)) or any(
        np.ptp(cluster) > step / 2 for cluster in clusters
    ):
        return None
    starts = [cluster[0] for cluster in clusters]
    return [[int(np.searchsorted(starts, time, side='right')) - 1 for time in row] for row in times]


def _follows(phases: list[list[int]], ranks: list[list[int]]) -> bool:
    """Whether phases are positions in the cycle and rise with the ranks within each slice."""
    return all(min(row) >= 0 for row in phases) and all(
        len(set(row)) == len(row) and np.argsort(np.argsort(row)).tolist() == rank
        for row, rank in zip(phases, ranks)
    )


def name_phases(areas: Mapping[tuple[int, int], float]) -> tuple[dict[int, str], list[str]]:
    """'ED' and 'ES' by phase, from the area of the LV cavity by (slice, phase).

    ED is the phase with the largest cavity and ES the one with the smallest, summed over the
    slices that all compared phases share: observers outline fewer slices at end-systole. A phase
    that would leave no shared slice is not compared. Other phases are called 'phase07'.

    Returns:
        Names by phase, none if fewer than two phases can be told apart, and warnings.
    """
    slices_of: dict[int, set[int]] = {}
    for number, phase in areas:
        slices_of.setdefault(phase, set()).add(number)
    if len(slices_of) < 2:
        return {}, []
    warnings, compared, shared = [], [], set()
    for phase in sorted(slices_of, key=lambda phase: (-len(slices_of[phase]), phase)):
        both = slices_of[phase] & shared if compared else slices_of[phase]
        if both:
            shared = both
            compared.append(phase)
    if len(compared) < len(slices_of):
        warnings.append('phases share no labelled slice, so their cavities cannot be compared')
    if len(compared) < 2:
        return {}, warnings
    sizes = {phase: sum(areas[number, phase] for number in shared) for phase in compared}
    ordered = sorted(compared, key=lambda phase: (sizes[phase], phase))
    if sizes[ordered[0]] == sizes[ordered[-1]]:
        return {}, [*warnings, 'ED and ES cannot be told apart: their cavities are of one size']
    names = {phase: f'phase{phase:02d}' for phase in slices_of}
    return names | {ordered[0]: 'ES', ordered[-1]: 'ED'}, warnings
