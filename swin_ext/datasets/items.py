"""What a data set says of each image, made anew from the table of its file when asked for."""

from __future__ import annotations

import os.path as osp
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np

from swin_ext.coco.table import AnnotationTable
from swin_ext.datasets.image_files import place_in_file


@dataclass(frozen=True, eq=False)
class Items(Sequence):
    """The `data_list` of a data set; a slice has those images alone.

    Attributes:
        table: Of the annotation file.
        rows: Places of the images in the table.
        is_used: For each annotation of the table, whether it is an instance.
        cat2label: Label of each category that is used.
        folder: `file_name` is relative to it.
        more: What else is said of an image, by its id.
    """

    table: AnnotationTable
    rows: np.ndarray
    is_used: np.ndarray
    cat2label: dict[int, int]
    folder: str
    more: dict[int, dict] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> dict: ...
    @overload
    def __getitem__(self, index: slice) -> Items: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return self.take(index)
        row = int(self.rows[index])
        image = self.table.images[row]
        more = self.more.get(image['id'], {})
        return dict(
            img_path=osp.join(self.folder, image['file_name']),
            img_id=image['id'],
            seg_map_path=None,
            height=image['height'],
            width=image['width'],
            instances=[
                self._instance(self.table.annotations[int(place)])
                for place in self.table.annotations_of(row)
                if self.is_used[place]
            ],
            **place_in_file(image),
            **{
                key: list(value) if isinstance(value, list) else value
                for key, value in more.items()
            },
        )

    def take(self, chosen: Any) -> Items:
        """Those that a slice, an array of indices or one of booleans chooses."""
        return replace(self, rows=self.rows[chosen])

    def with_more(self, more: dict[int, dict]) -> Items:
        """Say more of each image, by its id."""
        return replace(self, more={i: {**self.more.get(i, {}), **more[i]} for i in more})

    def sides(self) -> np.ndarray:
        """Height and width of each image in pixels, (n, 2)."""
        return self.table.columns['image_sides'][self.rows]

    def how_many_instances(self) -> np.ndarray:
        """Of each image, (n,)."""
        images = self.table.columns['annotation_images'][self.is_used]
        return np.bincount(images, minlength=len(self.table.images))[self.rows]

    def how_many_of_category(self) -> dict[int, int]:
        """Instances of all images of the table, those of images that were left out too."""
        categories = self.table.columns['annotation_categories'][self.is_used]
        return dict(zip(*(part.tolist() for part in np.unique(categories, return_counts=True))))

    def _instance(self, annotation: dict) -> dict:
        x, y, w, h = annotation['bbox']
        instance = dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=self.cat2label[annotation['category_id']],
            ignore_flag=int(bool(annotation.get('iscrowd') or annotation.get('ignore'))),
        )
        if annotation.get('segmentation'):
            instance['mask'] = annotation['segmentation']
        return instance
