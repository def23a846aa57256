"""Classes by name and id."""

from __future__ import annotations

from collections.abc import Sequence


def category_ids(content: dict, classes: Sequence[str], source: str) -> dict[str, int]:
    """Category ids of a COCO file by name, in the order of the file.

    Raises:
        ValueError: If one of `classes` is no category of it.
    """
    ids = {category['name']: category['id'] for category in content['categories']}
    missing = [name for name in classes if name not in ids]
    if missing:
        raise ValueError(
            f'{source} has no category {missing}; it has {list(ids)}, the data set {list(classes)}.'
        )
    return ids
