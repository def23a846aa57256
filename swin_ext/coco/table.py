"""An annotation file as a table of bytes and numbers, of which entries are made when asked for.

Millions of dictionaries take gigabytes, in each process. A table takes about what the file does,
and may lie in a file that all processes map.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, overload

import msgspec
import numpy as np

from swin_ext.coco.checks import SEVERITIES, Finding, check_content, with_severity

COLUMNS = dict(
    head=np.uint8,  # JSON
    images=np.uint8,  # JSON of one entry after the other
    image_ends=np.int64,
    image_sides=np.int32,  # (n, 2): height and width
    annotations=np.uint8,
    annotation_ends=np.int64,
    annotation_ids=np.int64,
    annotation_categories=np.int64,
    annotation_images=np.int32,  # place of its image
    order=np.int32,  # places of the annotations, image by image
    image_firsts=np.int64,  # (n + 1,): where each image's begin in `order`
)


class Entries(Sequence):
    """Entries of a list, each made anew when it is asked for; a slice is a list."""

    def __init__(self, text: np.ndarray, ends: np.ndarray) -> None:
        self._text, self._ends = text, ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> dict: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict]: ...
    def __getitem__(self, place):
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        if place < 0:
            place += len(self)
        if not 0 <= place < len(self):
            raise IndexError(place)
        start = int(self._ends[place - 1]) if place else 0
        return _load(self._text[start : int(self._ends[place])].data)


class AnnotationTable:
    """What an annotation file holds, checked.

    Attributes:
        columns: Arrays by the names of `COLUMNS`.
        head: `content`, all of the file besides images and annotations; `repairs` and `problems`
            of `CocoFile`; `needs_masks`, for which these are, or None if for both; `findings` and
            `max_decoded` of `find_all`, once it has been called.
        images: Entries of the images.
        annotations: Entries of the annotations.
    """

    def __init__(self, columns: dict[str, np.ndarray]) -> None:
        self.columns = columns
        self.head = _load(columns['head'].data)
        self.images = Entries(columns['images'], columns['image_ends'])
        self.annotations = Entries(columns['annotations'], columns['annotation_ends'])

    def annotations_of(self, image: int) -> np.ndarray:
        """Places of the annotations of an image, in their order in the file."""
        first, last = self.columns['image_firsts'][image : image + 2]
        return self.columns['order'][first:last]

    def content(self) -> dict:
        """The file as `json` reads it, but for its lists, which are `Entries`."""
        return dict(self.head['content'], images=self.images, annotations=self.annotations)

    def find_all(self, max_decoded: int) -> None:
        """Run the checks of `coco.checks` and keep what they find."""
        found = check_content(self.content(), dict.fromkeys(SEVERITIES, 'warn'), max_decoded)
        self.head['findings'] = [
            [f.check, f.summary, list(f.entries), [int(i) for i in f.annotation_ids]] for f in found
        ]
        self.head['max_decoded'] = max_decoded
        self.columns['head'] = np.frombuffer(_dump(self.head), np.uint8)

    def findings(self, severities: dict[str, str], max_decoded: int) -> list[Finding]:
        """What the checks find, or have found already."""
        if self.head.get('max_decoded') != max_decoded:
            return check_content(self.content(), severities, max_decoded)
        found = [
            Finding(check, 'warn', summary, tuple(entries), tuple(ids))
            for check, summary, entries, ids in self.head['findings']
        ]
        return with_severity(found, severities)

    def __deepcopy__(self, memo: dict) -> AnnotationTable:
        return self  # nothing changes it


class TableBuilder:
    """Makes a table of entries in the order of their file."""

    def __init__(self) -> None:
        self._images, self._annotations = _Rows(), _Rows()
        self._place_of_image: dict[int, int] = {}
        self._sides: list[np.ndarray] = []
        self._numbers: list[np.ndarray] = []  # (n, 3): id, category, place of the image

    def add_images(self, images: list[dict]) -> None:
        for image in images:
            self._place_of_image[image['id']] = len(self._place_of_image)
        self._images.add(images)
        sides = [(image['height'], image['width']) for image in images]
        self._sides.append(np.array(sides, np.int32).reshape(-1, 2))

    def add_annotations(self, annotations: list[dict]) -> None:
        self._annotations.add(annotations)
        numbers = [
            (a['id'], a['category_id'], self._place_of_image[a['image_id']]) for a in annotations
        ]
        self._numbers.append(np.array(numbers, np.int64).reshape(-1, 3))

    def table(
        self, content: dict, repairs: Counter, problems: Iterable[str], needs_masks: bool | None
    ) -> AnnotationTable:
        """Return the table; see `AnnotationTable.head` for the arguments."""
        head = dict(
            content=content,
            repairs=dict(repairs),
            problems=list(problems),
            needs_masks=needs_masks,
        )
        numbers = np.concatenate([np.zeros((0, 3), np.int64), *self._numbers])
        order = np.argsort(numbers[:, 2], kind='stable')
        how_many = np.bincount(numbers[:, 2], minlength=len(self._place_of_image))
        columns = dict(
            head=np.frombuffer(_dump(head), np.uint8),
            images=self._images.text(),
            image_ends=self._images.ends(),
            image_sides=np.concatenate([np.zeros((0, 2), np.int32), *self._sides]),
            annotations=self._annotations.text(),
            annotation_ends=self._annotations.ends(),
            annotation_ids=numbers[:, 0],
            annotation_categories=numbers[:, 1],
            annotation_images=numbers[:, 2],
            order=order,
            image_firsts=np.append(0, np.cumsum(how_many)),
        )
        return AnnotationTable(
            {name: np.ascontiguousarray(columns[name], kind) for name, kind in COLUMNS.items()}
        )


class _Rows:
    def __init__(self) -> None:
        self._text = bytearray()
        self._lengths: list[np.ndarray] = []

    def add(self, entries: list[dict]) -> None:
        rows = [_dump(entry) for entry in entries]
        self._text += b''.join(rows)
        self._lengths.append(np.array([len(row) for row in rows], np.int64))

    def text(self) -> np.ndarray:
        return np.frombuffer(self._text, np.uint8)

    def ends(self) -> np.ndarray:
        return np.cumsum(np.concatenate([np.zeros(0, np.int64), *self._lengths]))


def _dump(value: Any) -> bytes:
    """JSON; that of `json` where a text is no Unicode, and where a null may be a NaN."""
    try:
        text = _encode(value)
    except UnicodeEncodeError:
        text = b'null'
    return json.dumps(value).encode() if b'null' in text else text


_encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[Any], Any] = msgspec.json.Decoder().decode


def _load(text: memoryview) -> Any:
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError):
        return json.loads(bytes(text))
