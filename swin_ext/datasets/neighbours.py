"""Which other images show the same patient, for transforms that load them together."""

from __future__ import annotations

import os.path as osp
from collections import defaultdict
from collections.abc import Iterator, Sequence

from swin_ext.datasets.errors import DatasetError


def all_transforms(part) -> Iterator:
    """Yield the transforms of a pipeline, and those inside of RandomChoice and other wrappers.

    Wrappers have no common base; each keeps what it wraps in some attribute.
    """
    if isinstance(part, (list, tuple)):
        for item in part:
            yield from all_transforms(item)
    elif isinstance(part, dict):
        yield from all_transforms(list(part.values()))
    elif callable(part) and not isinstance(part, type):
        yield part
        yield from all_transforms(
            [v for v in getattr(part, '__dict__', {}).values() if _may_hold_transforms(v)]
        )


def _may_hold_transforms(value) -> bool:
    return (
        isinstance(value, (list, tuple, dict))
        or hasattr(value, 'transform')
        or hasattr(value, 'transforms')
    )


def find_neighbours(images: Sequence[dict], folder: str, source: str) -> dict[int, dict]:
    """What `LoadCMRImage` needs to show an image with others of its patient, by image id.

    Its stack is a list of (slice, reference), one for each slice at the same time; its cine
    of (frame, reference), one for each time at the same slice. A reference is a tuple of
    img_path, slice_index and frame_index.

    Args:
        images: Entries of an annotation file.
        folder: Their `file_name` is relative to it.
        source: Name of the annotation file.

    Raises:
        DatasetError: If two images have the same place in a series.
    """
    neighbours = defaultdict(dict)
    for position, series, same in (
        ('slice', 'stack', ('patient_id', 'phase', 'frame')),
        ('frame', 'cine', ('patient_id', 'slice')),
    ):
        groups = defaultdict(dict)
        for image in images:
            if image.get('patient_id') is None or not isinstance(image.get(position), int):
                continue
            group = groups[tuple(image.get(key) for key in same)]
            twin = group.setdefault(image[position], image)
            if twin is not image:
                raise DatasetError(
                    f'{source}: images {twin["id"]} and {image["id"]} are both '
                    f'{position} {image[position]} of patient {image["patient_id"]}. Tell '
                    'them apart with "phase" or "frame", or with another patient_id.'
                )
        for group in groups.values():
            references = [
                (
                    number,
                    (
                        osp.join(folder, image['file_name']),
                        *(image.get(key) for key in ('slice_index', 'frame_index')),
                    ),
                )
                for number, image in sorted(group.items())
            ]
            for number, image in group.items():
                neighbours[image['id']].update({position: number, series: references})
    return neighbours
