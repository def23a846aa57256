"""Reads annotation files with nothing wrong in them: part by part, with few steps per entry."""

from __future__ import annotations

import os
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Optional, Union

import msgspec
import numpy as np
from msgspec import Meta, Struct

from swin_ext.coco.entries import check_entries
from swin_ext.coco.geometry import BOX_TOLERANCE_PX, complete_areas, damaged_rles, mask_problem
from swin_ext.coco.streaming import NotPlain, stream_sections

# ruff: noqa: UP007, UP045 -- msgspec evaluates annotations, and Python 3.9 knows no `X | None`
LISTS = ('images', 'annotations', 'categories')
Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Side = Annotated[int, Meta(ge=1, le=16384)]


class _RunLengths(Struct):
    size: Annotated[list[Side], Meta(min_length=2, max_length=2)]
    counts: Union[str, list[int]]


class _Annotation(Struct):
    """What of `entries.AnnotationEntry` is frequent; the rest is left to `check_entries`."""

    id: Id
    image_id: Id
    category_id: Id
    bbox: Annotated[list[float], Meta(min_length=4, max_length=4)]
    iscrowd: Annotated[int, Meta(ge=0, le=1)]
    area: Optional[Annotated[float, Meta(ge=0)]] = None
    segmentation: Union[_RunLengths, list[list[float]], None] = None
    ignore: Union[bool, int, None] = None


class SoundFile:
    """An annotation file that is read once, by `parts`, and left at the first thing that is wrong.

    Attributes:
        head: What it holds besides images and annotations, once all parts have been read.
        repairs: See `CocoFile`.
        without_mask: How many annotations have no mask.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.head: dict = {}
        self.repairs: Counter = Counter()
        self.without_mask = 0
        self._path = path
        self._row_of_image: dict[int, int] = {}
        self._sides: list[np.ndarray] = []  # (n, 2): height and width
        self._ids, self._categories = array('q'), array('q')
        self._lists: set[str] = set()

    def parts(self) -> Iterator[tuple[str, list[dict]]]:
        """Yield 'images' or 'annotations' with entries as `read_coco_file` returns them.

        Raises:
            NotPlain: An entry is wrong; or the file is laid out in another way than usual, with
                annotations before the images, for example.
        """
        for key, value, is_part in stream_sections(self._path):
            if key in LISTS and not is_part:
                raise NotPlain
            if key == 'images':
                self._add_images(value)
                yield key, value
            elif key == 'annotations':
                self._add_annotations(value)
                yield key, value
            elif key == 'categories':
                self._check('categories', value)
                self.head.setdefault(key, []).extend(value)
            else:
                self.head[key] = value
            self._lists.add(key)
        self._check_ids()

    def _add_images(self, images: list[dict]) -> None:
        if 'annotations' in self._lists:
            raise NotPlain
        self._check('images', images)
        for image in images:
            row = len(self._row_of_image)
            if self._row_of_image.setdefault(image['id'], row) != row:
                raise NotPlain
        sides = [(image['height'], image['width']) for image in images]
        self._sides.append(np.array(sides, np.int64).reshape(-1, 2))

    def _check(self, kind: str, entries: list[dict]) -> None:
        if check_entries(kind, entries, self.repairs):
            raise NotPlain

    def _add_annotations(self, annotations: list[dict]) -> None:
        try:
            msgspec.convert(annotations, list[_Annotation])
        except (msgspec.ValidationError, OverflowError):
            self._check('annotations', annotations)
        sides = self._sides_of(annotations)
        boxes = np.array([a['bbox'] for a in annotations], float).reshape(-1, 4)
        with np.errstate(over='ignore'):
            ends = boxes[:, :2] + boxes[:, 2:]
        if (
            (boxes[:, 2:] < 1).any()
            or (boxes[:, :2] < -BOX_TOLERANCE_PX).any()
            or (ends > sides[:, ::-1] + BOX_TOLERANCE_PX).any()
        ):
            raise NotPlain
        self._check_masks(annotations, sides)
        self._ids.extend([a['id'] for a in annotations])
        self._categories.extend([a['category_id'] for a in annotations])
        if any(a.get('area') is None for a in annotations):
            images = {
                a['image_id']: dict(height=height, width=width)
                for a, (height, width) in zip(annotations, sides.tolist())
            }
            complete_areas(annotations, images, self.repairs)

    def _sides_of(self, annotations: list[dict]) -> np.ndarray:
        """Height and width of each annotation's image, (n, 2)."""
        if len(self._sides) > 1:
            self._sides = [np.concatenate(self._sides)]
        if not self._sides and annotations:
            raise NotPlain
        rows = [self._row_of_image.get(a['image_id'], -1) for a in annotations]
        if -1 in rows:
            raise NotPlain
        return self._sides[0][rows] if rows else np.zeros((0, 2), np.int64)

    def _check_masks(self, annotations: list[dict], sides: np.ndarray) -> None:
        encoded, places = [], []
        for place, annotation in enumerate(annotations):
            mask = annotation.get('segmentation')
            if not mask and type(mask) is not dict:
                self.without_mask += 1
            elif type(mask) is dict:
                if not mask.get('counts'):
                    raise NotPlain
                encoded.append(mask)
                places.append(place)
            else:
                height, width = sides[place].tolist()
                if mask_problem(annotation, dict(height=height, width=width)):
                    raise NotPlain
        sizes = np.array([mask['size'] for mask in encoded], np.int64).reshape(-1, 2)
        if (sizes != sides[places]).any() or any(damaged_rles(encoded)):
            raise NotPlain

    def _check_ids(self) -> None:
        categories = [category['id'] for category in self.head.get('categories', ())]
        known = set(categories)
        if (
            not self._lists.issuperset(LISTS)
            or not isinstance(self.head.get('info') or {}, dict)
            or len(known) < len(categories)
            or len(np.unique(self._ids)) < len(self._ids)
            or not known.issuperset(np.unique(self._categories).tolist())
        ):
            raise NotPlain
