"""Classes by name and id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from swin_ext.coco.errors import AnnotationError


def category_ids(content: dict, classes: Sequence[str], source: str) -> dict[str, int]:
    """Category ids of a COCO file by name, in the order of the file.

    Raises:
        AnnotationError: If one of `classes` is no category of it, or two have the same name.
    """
    names = [category['name'] for category in content['categories']]
    double = sorted({name for name in names if names.count(name) > 1})
    if double:
        raise AnnotationError(f'{source}: category names are not unique: {double}.')
    ids = {category['name']: category['id'] for category in content['categories']}
    missing = [name for name in classes if name not in ids]
    if missing:
        raise AnnotationError(
            f'{source} has no category {missing}; it has {list(ids)}, the data set '
            f'{list(classes)}.' + ''.join(f'\n{line}' for line in suggest_names(missing, ids))
        )
    return ids


def suggest_names(missing: Iterable[str], available: Iterable[str]) -> list[str]:
    """One line for each missing name that resembles available ones."""
    lines = []
    for name in missing:
        lowered = {other.lower(): other for other in available}
        near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.4)
        if near:
            lines.append(f'  {name!r}: did you mean {" or ".join(repr(lowered[n]) for n in near)}?')
    return lines


def normal_name(name: str) -> str:
    """Lower case with spaces, as names of structures are compared."""
    return name.lower().replace('_', ' ').replace('-', ' ').strip()
