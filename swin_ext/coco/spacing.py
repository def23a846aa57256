"""The size of a pixel, as image entries give it."""

from __future__ import annotations

import math
from numbers import Real


def is_length(value: object) -> bool:
    """Whether a value is a positive, finite number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 < value < math.inf


def spacing_of(image: dict, allow_third: bool = True) -> tuple[float, float] | None:
    """Height and width of a pixel in mm, from `spacing_mm`: a number, or [height, width].

    Args:
        image: Entry of an annotation file.
        allow_third: Whether a third number, which some files have for the slices, is left out;
            where volumes are measured it is refused, as it may stand first.

    Returns:
        None if there is no `spacing_mm`, or if it is not made of positive, finite numbers.
    """
    spacing = image.get('spacing_mm')
    values = spacing if isinstance(spacing, (list, tuple)) else [spacing, spacing]
    if len(values) < 2 or (len(values) > 2 and not allow_third):
        return None
    height, width = values[:2]
    return (float(height), float(width)) if is_length(height) and is_length(width) else None
