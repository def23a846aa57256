"""Tells whether compressed run-length encodings are whole.

pycocotools 2.0.11 trusts them: what runs too short do not cover is uninitialised memory in the
decoded mask, and some damage makes it write outside of its buffers.
"""

from __future__ import annotations

import numpy as np

FIRST_CHARACTER = 48  # six bits per character: five of a number, one if it goes on
MAX_RUN = 1 << 31
MAX_DIGITS = 7
BATCH_SIZE = 500  # keeps the intermediate arrays in the processor's cache


def covered_pixels(counts: list[bytes]) -> np.ndarray:
    """Sum the runs of many encodings at once.

    The format is that of `rleToString` in pycocotools: numbers in groups of five bits, lowest
    first, the sign in the last one; from the fourth run on, the difference to the last but one.

    Args:
        counts: COCO's `counts`, one entry for each mask.

    Returns:
        Pixels that each mask has, set or not; -1 for what is no encoding.
    """
    covered = np.full(len(counts), -1)
    written = [index for index, text in enumerate(counts) if text]
    for start in range(0, len(written), BATCH_SIZE):
        batch = written[start : start + BATCH_SIZE]
        covered[batch] = _covered_pixels([counts[index] for index in batch])
    return covered


def _covered_pixels(counts: list[bytes]) -> np.ndarray:
    lengths = np.array([len(text) for text in counts])
    last = np.cumsum(lengths) - 1  # character of each mask
    bits = np.frombuffer(b''.join(counts), np.uint8) - np.uint8(FIRST_CHARACTER)  # wraps below it
    ends = bits < 0x20  # of numbers: they do not go on
    damaged = ~ends[last] | np.logical_or.reduceat(bits > 0x3F, last + 1 - lengths)
    ends[last] = True  # so that damage stays within its mask

    numbers, digits = _numbers(bits, np.flatnonzero(ends))
    how_many = np.add.reduceat(ends, last + 1 - lengths, dtype=np.int64)
    # Each mask has rows of its own, in two columns: its first run and every second after it, and
    # the others.
    rows = (how_many + 1) // 2
    first_row = np.cumsum(rows) - rows
    places = np.arange(len(numbers)) + np.repeat(
        2 * first_row - (np.cumsum(how_many) - how_many), how_many
    )
    differences = np.zeros((rows.sum(), 2), np.int64)
    differences.ravel()[places] = numbers
    sums = np.cumsum(differences, axis=0)
    # The difference of the third run is to nothing, as is that of the second.
    before = sums[first_row] - differences[first_row] * (0, 1)
    sums -= np.repeat(before, rows, axis=0)
    sums[first_row, 0] = differences[first_row, 0]
    runs = sums.ravel()[places]

    starts = np.cumsum(how_many) - how_many
    impossible = (runs < 0) | (runs >= MAX_RUN) | (digits > MAX_DIGITS)
    damaged |= np.logical_or.reduceat(impossible, starts)
    return np.where(damaged, -1, np.add.reduceat(runs, starts))


def _numbers(bits: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers whose last characters are at `ends`, and how many characters each has."""
    digits = np.diff(ends, prepend=-1)
    numbers = (bits[ends] & 0x1F).astype(np.int64)
    numbers -= (numbers & 0x10) << 1
    longer, digit = np.flatnonzero(digits > 1), 1
    while len(longer) and digit < MAX_DIGITS:
        numbers[longer] = (numbers[longer] << 5) | (bits[ends[longer] - digit] & 0x1F)
        digit += 1
        longer = longer[digits[longer] > digit]
    return numbers, digits
