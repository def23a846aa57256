"""Finding the name that was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Of difflib's ratio, from which on a name is a slip of another where names are free:
# 'num_class' of 'num_classes' has 0.9, 'filter_empty' of 'filter_empty_gt' 0.89,
# 'train_dataset' of 'train_dataloader' 0.76.
SLIP_RATIO = 0.85


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like `name`, if any is like it at all."""
    by_lower = {other.lower(): other for other in sorted(known)}
    apart = [other for other in by_lower if _one_letter_apart(name.lower(), other)]
    if apart:  # AdamWx is AdamW rather than Adamax
        return by_lower[
            max(apart, key=lambda o: difflib.SequenceMatcher(None, name.lower(), o).ratio())
        ]
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[found[0]] if found else None


def slip_of(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is a slip of, for places where names are free.

    A number or a word more is no slip: `train_pipeline_2`, `val_evaluator_small`.
    """
    best, best_ratio = None, SLIP_RATIO
    for other in sorted(known):
        if _one_letter_apart(name.lower(), other.lower()) and not _numbered(name, other):
            return other
        ratio = difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
        if ratio >= best_ratio and not _extended(name, other) and not _numbered(name, other):
            best, best_ratio = other, ratio
    return best


def _numbered(name: str, other: str) -> bool:
    return name != other and name.rstrip('0123456789_') == other.rstrip('0123456789_')


def _extended(name: str, other: str) -> bool:
    words, part = name.split('_'), other.split('_')
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))


def _one_letter_apart(a: str, b: str) -> bool:
    """Whether one letter is missing, too many, or changed, or two neighbours are swapped."""
    if len(a) > len(b):
        a, b = b, a
    if a == b or len(b) - len(a) > 1:
        return a == b
    start = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), len(a))
    if len(a) < len(b):
        return a[start:] == b[start + 1 :]
    swapped = a[start : start + 2] == b[start : start + 2][::-1]
    if swapped and a[start + 2 :] == b[start + 2 :]:
        return True
    # Two short names that differ in a letter are as likely two names: lr, l2.
    return len(a) > 3 and a[start + 1 :] == b[start + 1 :]
