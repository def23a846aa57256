"""Which stack of a DICOM study is its short-axis cine, and why each other one is not."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.study.dicom_headers import read_header
from swin_ext.study.errors import StudyError
from swin_ext.study.reading import StudyFrames
from swin_ext.study.stacks import Stack, choose_short_axis

# The long axis of the left ventricle runs from its base to the left, to the front and to the feet
# (LPS). A plane across it has its normal within 45 degrees of that in nearly everyone, and the
# planes along it, of two and four chambers, then have theirs beyond.
LONG_AXIS = np.array([0.7, -0.5, -0.5]) / np.linalg.norm([0.7, -0.5, -0.5])
MIN_COSINE = np.sqrt(0.5)


@dataclass(frozen=True)
class Choice:
    """The stack to segment.

    Args:
        assumptions: What is not certain of the choice.
        left_out: Each other stack with the reason, without a text of the header.
    """

    stack: Stack
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...]


def is_short_axis(normal: tuple[float, ...] | None) -> bool:
    return normal is not None and bool(abs(np.dot(normal, LONG_AXIS)) >= MIN_COSINE)


def choose(study: StudyFrames, series: str | None, is_named: bool, source: Path) -> Choice:
    """Choose among the stacks of a study by orientation, position and time.

    Args:
        series: UID or number of a series, or a pattern (as 'cine*sa*') of its description; then
            the orientation is not looked at.
        is_named: Whether the user named each file; likewise.
        source: What errors are about.

    Raises:
        StudyError: If no stack is a short axis, or the frames that could be one have no order.
    """
    info = {id(stack): _SeriesInfo(stack) for stack in study.stacks}
    names = '; '.join(info[id(stack)].name for stack in study.stacks)
    candidates = list(study.stacks)
    reasons: dict[int, str] = {}
    assumptions: list[str] = []
    if series is not None:
        candidates = [stack for stack in study.stacks if info[id(stack)].matches(series)]
        reasons = {id(stack): 'is not the chosen series' for stack in study.stacks}
        if not candidates:
            raise StudyError(
                f'no series of it is {series!r}; it has {names}',
                'Give one of these numbers with --series',
                source,
            )
    elif is_named:
        if not any(is_short_axis(stack.normal) for stack in candidates):
            assumptions.append('the files are taken as short axis, though their planes are not')
    else:
        candidates = [stack for stack in study.stacks if is_short_axis(stack.normal)]
        reasons = {id(stack): 'does not lie across the heart' for stack in study.stacks}
    chosen, others = choose_short_axis(candidates)
    size = len(chosen.frames()) if chosen else 0
    for refused in study.refused:
        relevant = series is not None or is_named or is_short_axis(refused.frames[0].normal)
        if relevant and len(refused.frames) > size:
            raise refused.error
    if chosen is None:
        raise StudyError(
            f'none of its planes lies across the heart, as a short axis does; it has {names}',
            'Choose one by its number with --series',
            source,
        )
    reasons.update({id(stack): reason for stack, reason in others})
    left_out = []
    for stack in study.stacks:
        if stack is chosen:
            continue
        reason = reasons[id(stack)]
        if info[id(stack)].uids & info[id(chosen)].uids and _size(stack) != _size(chosen):
            reason = (
                f'is of the chosen series, but not of its matrix of '
                f'{" x ".join(map(str, _size(chosen)))} pixels'
            )
        left_out.append(f'{info[id(stack)].name} {reason}')
    return Choice(chosen, tuple(assumptions), tuple(left_out))


def _size(stack: Stack) -> tuple[int, int]:
    frame = stack.frames()[0][2]
    return frame.height, frame.width


class _SeriesInfo:
    """What says which series a stack is; the description serves to choose and is not told."""

    def __init__(self, stack: Stack):
        frames = [frame for _, _, frame in stack.frames()]
        self.uids = {frame.series_uid for frame in frames}
        header = read_header(frames[0].path, ('SeriesNumber', 'SeriesDescription'))
        self.number = str(header.get('SeriesNumber') or '').strip()
        self.description = str(header.get('SeriesDescription') or '').strip()
        height, width = _size(stack)
        self.name = (
            f'series {self.number or "without a number"} ({len(stack.slices)} slices x '
            f'{stack.num_phases} phases, {height} x {width} pixels)'
        )

    def matches(self, series: str) -> bool:
        return (
            series in self.uids
            or series.strip() == self.number
            or fnmatch.fnmatch(self.description.lower(), series.lower())
        )
