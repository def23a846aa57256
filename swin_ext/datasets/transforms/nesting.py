"""Transforms inside other transforms."""

from __future__ import annotations

from collections.abc import Callable, Iterator


def walk_transforms(transform: Callable | list | tuple) -> Iterator[Callable]:
    """Yield a transform and all that it wraps, as `Compose`, `RandomApply` or `KeyMapper` do.

    Args:
        transform: A transform, or several; wrappers of mmcv and mmengine hold theirs in
            `transforms`.
    """
    if isinstance(transform, (list, tuple)):
        for part in transform:
            yield from walk_transforms(part)
    else:
        yield transform
        yield from walk_transforms(getattr(transform, 'transforms', ()))
