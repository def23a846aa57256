"""Tells whether compressed run-length encodings are whole.

pycocotools 2.0.11 trusts them: what runs too short do not cover is uninitialised memory in the
decoded mask, and some damage makes it write outside of its buffers.
"""

from __future__ import annotations

import numpy as np

FIRST_CHARACTER = 48  # six bits per character: five of a number, one if it goes on
MAX_RUN = 1 << 31
MAX_DIGITS = 7
BATCH_SIZE = 2000  # keeps the intermediate arrays in the processor's cache


def covered_pixels(counts: list[bytes]) -> np.ndarray:
    """Sum the runs of many encodings at once.

    The format is that of `rleToString` in pycocotools: numbers in groups of five bits, lowest
    first, the sign in the last one; from the fourth run on, the difference to the last but one.

    Args:
        counts: COCO's `counts`, one entry for each mask.

    Returns:
        Pixels that each mask has, set or not; -1 for what is no encoding.
    """
    batches = [
        _covered_pixels(counts[start : start + BATCH_SIZE])
        for start in range(0, len(counts), BATCH_SIZE)
    ]
    return np.concatenate(batches) if batches else np.zeros(0, np.int64)


def _covered_pixels(counts: list[bytes]) -> np.ndarray:
    lengths = np.array([len(text) for text in counts], int)
    if not lengths.any():
        return np.full(len(counts), -1)
    bits = np.frombuffer(b''.join(counts), np.uint8).astype(np.int64) - FIRST_CHARACTER
    mask_of = np.repeat(np.arange(len(counts)), lengths)
    # The last character of a mask ends its last number, or is marked as damaged.
    is_last = np.diff(mask_of, append=-1) != 0
    goes_on = (bits & 0x20) != 0
    is_damaged = (bits < 0) | (bits > 0x3F) | (is_last & goes_on)
    ends = ~goes_on | is_last

    number_of = np.cumsum(ends) - ends
    starts = np.flatnonzero(np.append(True, ends[:-1]))
    digit = np.arange(len(bits)) - starts[number_of]
    numbers = np.add.reduceat((bits & 0x1F) << 5 * np.minimum(digit, MAX_DIGITS), starts)
    is_negative = (bits[ends] & 0x10) != 0
    numbers -= is_negative << 5 * np.minimum(digit[ends] + 1, MAX_DIGITS)
    numbers = numbers.clip(-MAX_RUN, MAX_RUN)

    mask_of_number = mask_of[ends]
    is_first = np.diff(mask_of_number, prepend=-1) != 0
    rank = np.arange(len(numbers)) - np.flatnonzero(is_first)[np.cumsum(is_first) - 1]
    runs = numbers.copy()
    for chain in (rank % 2 == 1, (rank % 2 == 0) & (rank > 0)):
        runs[chain] = _cumulate_within(numbers[chain], mask_of_number[chain])

    covered = np.bincount(mask_of_number, runs, minlength=len(counts))
    covered[mask_of[is_damaged]] = -1
    covered[mask_of_number[(runs < 0) | (runs >= MAX_RUN)]] = -1
    covered[lengths == 0] = -1
    return covered.astype(np.int64)


def _cumulate_within(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Cumulative sum that starts anew where `groups`, sorted, changes."""
    sums = np.cumsum(values)
    starts = np.diff(groups, prepend=-1) != 0
    before = (sums - values)[starts]
    return sums - before[np.cumsum(starts) - 1]
