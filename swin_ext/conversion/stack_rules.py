"""What makes the slices of a patient stacks that volumes can be measured in."""

from __future__ import annotations

from collections import Counter, defaultdict

from swin_ext.utils.errors import UserError

# Lengths that differ by less are rounded differently, not scanned differently.
LENGTH_TOLERANCE = 1e-3
SAME_IN_STACK = ('height', 'width', 'spacing_mm', 'slice_spacing_mm')
LENGTHS = ('spacing_mm', 'slice_spacing_mm')


class StackError(UserError, ValueError):
    """The slices of a study make no stacks; its two arguments are the problem and the remedy."""


def settle_stacks(lines: list[dict], keep_empty: bool, left_out: Counter) -> list[dict]:
    """Decide which slices of a study are converted, and make its stacks such as metrics need.

    A stack is all slices at one time. Slices without a label are kept in stacks with labels, and
    left out and counted in others. Where no phase is known but several times are, a time becomes
    the phase, as 'frame07'; spacings that differ by rounding become those of the first slice.

    Args:
        lines: Of each slice its `image` and `annotations`, as `coco_writer.encode_slice` gives
            them; `image` may be changed.
        keep_empty: Keep stacks without a label, too.

    Raises:
        StackError: If two slices of a stack are at the same place, or differ in size or spacing.
    """
    stacks = defaultdict(list)
    for line in lines:
        stacks[_time_of(line['image'])].append(line)
    labelled = {
        time for time, members in stacks.items() if any(line['annotations'] for line in members)
    }
    if keep_empty:
        labelled = set(stacks)
    kept = [line for line in lines if _time_of(line['image']) in labelled]
    if len(kept) < len(lines):
        left_out['slices of stacks without a label'] += len(lines) - len(kept)
    images = [line['image'] for line in kept]
    _name_times(images)
    by_phase = defaultdict(list)
    for image in images:
        if image.get('slice') is not None:
            by_phase[image.get('phase')].append(image)
    for phase, stack in by_phase.items():
        _check_stack(phase, stack)
    return kept


def _time_of(image: dict) -> tuple:
    # Without a slice number, frames may be places as well as times.
    frame = image.get('frame') if image.get('slice') is not None else None
    return image.get('phase'), frame


def _name_times(images: list[dict]) -> None:
    placed = [i for i in images if i.get('slice') is not None and i.get('phase') is None]
    if len({image.get('frame') for image in placed}) < 2:
        return
    for image in placed:
        if image.get('frame') is not None:
            image['phase'] = f'frame{image["frame"]:02d}'


def _check_stack(phase: str | None, stack: list[dict]) -> None:
    where = f' at phase {phase}' if phase else ''
    numbers = Counter(image['slice'] for image in stack)
    twice = [number for number, count in numbers.items() if count > 1]
    if twice:
        raise StackError(
            f'{len(twice)} of its slices are there more than once{where}, the first is number '
            f'{twice[0]}',
            'Remove copies, or tell times apart by a field {phase} or {frame} in the patterns',
        )
    first = stack[0]
    for image in stack[1:]:
        for key in SAME_IN_STACK:
            if first.get(key) == image.get(key):
                continue
            if key in LENGTHS and _agree(first.get(key), image.get(key)):
                image[key] = first[key]
                continue
            raise StackError(
                f'its slices {first["slice"]} and {image["slice"]}{where} differ in {key} '
                f'({first.get(key)} and {image.get(key)}), so that they are no stack',
                'Leave out those that do not belong to it, or resample them',
            )


def _agree(one: float | list | None, other: float | list | None) -> bool:
    if one is None or other is None:
        return False
    pairs = zip(*(value if isinstance(value, list) else [value] * 2 for value in (one, other)))
    return all(abs(a - b) <= LENGTH_TOLERANCE * abs(a) for a, b in pairs)
