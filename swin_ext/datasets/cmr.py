"""Cardiac MR instance segmentation in COCO JSON, with every annotation checked."""

from __future__ import annotations

import os.path as osp
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from mmdet.datasets import BaseDetDataset
from mmengine.fileio import LocalBackend, get_file_backend, join_path
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.utils import is_abs

from swin_ext.coco.categories import category_ids, suggest_names
from swin_ext.coco.checks import Finding, check_content, compare_splits, complete_severities
from swin_ext.coco.errors import AnnotationError
from swin_ext.coco.file_names import leaves_folder
from swin_ext.coco.index import read_table
from swin_ext.coco.reading import (
    REPORTED_PROBLEMS,
    CocoFile,
    describe_problems,
    describe_repairs,
    read_coco_file,
    what_is_there,
)
from swin_ext.coco.table import AnnotationTable
from swin_ext.datasets.errors import DatasetError
from swin_ext.datasets.image_files import (
    find_image_problem,
    find_unreadable,
    size_problem,
)
from swin_ext.datasets.items import Items
from swin_ext.datasets.neighbours import all_transforms, find_neighbours
from swin_ext.utils.errors import UserError

# Decoding takes about 1 s per 20,000 masks of 256 x 256 px, spent whenever a run starts.
MAX_DECODED_MASKS = 20000
FILTERS = ('filter_empty_gt', 'min_size')


@DATASETS.register_module()
class CMRDataset(BaseDetDataset):
    """COCO-format instance segmentation whose labels follow the order of `classes`.

    mmdet's `CocoDataset` numbers labels by the order of the JSON's categories, whatever order
    `metainfo['classes']` has, and drops invalid annotations without a word. Here label i is
    always `classes[i]`, and what is invalid ends the run or, on request, is skipped and counted.
    The data set's metainfo also carries `ann_file`, so that a metric can evaluate against the
    very file that was loaded, and `preprocessing`, if the file says how its images were made from
    those of the scanner. Images without annotations are used, in training as well unless
    `filter_cfg` has `filter_empty_gt`.

    What each entry may be, but the data set as a whole should not, is checked as well, see
    `swin_ext.coco.checks.SEVERITIES`: an 'error' ends the run, a 'warn' is logged with its count
    and first ids. `tools/check_dataset.py` runs the same checks on all splits, with pictures.

    An image entry may have, besides COCO's keys, `slice_index` and `frame_index` (which image of
    a NIfTI or multi-frame DICOM file it is), `spacing_mm` (a number, or [height, width] of a
    pixel), `patient_id`, `phase`, and the whole numbers `slice` and `frame` (its place in the
    stack and in the heart beat). `LoadCMRImage` gets from them what it needs.

    Args:
        ann_file: COCO JSON; masks as RLE or polygons, boxes as [x, y, width, height] in pixels.
        metainfo: `classes` selects and orders the classes. Without it, all categories of the
            JSON are used in their order there.
        invalid: What to do with a missing or unreadable image and with an annotation whose
            category, box or mask is impossible: 'error', or 'skip' them with a logged count. For
            'skip' every image is decoded once when the data set is built.
        checks: Severities that differ from `swin_ext.coco.checks.SEVERITIES`, for example
            dict(filled_ring='error', mixed_spacing='ignore'). Annotations with an empty mask or a
            wrong box are skipped where `invalid='skip'`.
        other_splits: Annotation files, relative to `data_root`, that must share no patient with
            this one and have the same categories.
        allow_outside: Whether a `file_name` may lead out of the image folder: an absolute path,
            an address or one with `..`.
        index: Whether an annotation file of 16 MiB or more gets an index beside it, or in
            `~/.cache/swin_ext` where its folder cannot be written, which later runs and other
            ranks map into memory; see `swin_ext.coco.index`. A folder: any file gets one in there.

    Raises:
        DatasetError: If the JSON cannot be read, a class is not in it, an image or annotation is
            invalid (and `invalid='error'`), a check of severity 'error' fails, no image is
            left, or the pipeline windows images that have been windowed already.
        ValueError: If `checks` names no check or no severity, or `index` is no such value.
    """

    def __init__(
        self,
        *args,
        invalid: str = 'error',
        checks: dict | None = None,
        other_splits: Sequence[str] = (),
        allow_outside: bool = False,
        index: bool | str = True,
        **kwargs,
    ):
        if not isinstance(index, (bool, str)):
            raise ValueError(f'CMRDataset: index={index!r} must be True, False or a folder.')
        self.index = index
        if invalid not in ('error', 'skip'):
            raise ValueError(f"CMRDataset: invalid={invalid!r} must be 'error' or 'skip'.")
        self.invalid = invalid
        self.severities = complete_severities(checks)
        self.other_splits = (other_splits,) if isinstance(other_splits, str) else other_splits
        self.allow_outside = allow_outside
        unknown = [key for key in kwargs.get('filter_cfg') or {} if key not in FILTERS]
        if unknown:
            raise DatasetError(
                f'filter_cfg has {unknown}, but there are only {list(FILTERS)}.\n'
                + '\n'.join(suggest_names(unknown, FILTERS))
            )
        # Items are made of the table, which takes less than upstream's pickled ones.
        super().__init__(*args, **{**kwargs, 'serialize_data': False})

    def load_data_list(self) -> Items:
        """Read and check the annotation file."""
        try:
            return self._load_data_list()
        except AnnotationError as error:
            raise DatasetError(str(error)) from error

    def _load_data_list(self) -> Items:
        table = self.read_table()
        head = table.head['content']
        if table.head['repairs']:
            repairs = Counter(table.head['repairs'])
            print_log(describe_repairs(self.ann_file, repairs), 'current', 30)
        self._select_classes(head)
        self._compare_preprocessing(head)
        if not table.annotations and not table.head['problems']:
            raise DatasetError(f'{self.ann_file}: the list "annotations" is empty.')

        unreadable = self._find_unreadable_images(table.images)
        problems = [*unreadable.values(), *table.head['problems']]
        if problems:
            text = describe_problems(self.ann_file, problems)
            if self.invalid == 'error':
                raise DatasetError(
                    f'{text}\nCorrect them, or leave them out with '
                    "`invalid='skip'` in the data set's config."
                )
            print_log(f'{text}\nThey are skipped.', 'current', 30)

        columns = table.columns
        is_readable = np.ones(len(table.images), bool)
        if unreadable:
            is_readable = np.array([image['id'] not in unreadable for image in table.images])
        is_used = is_readable[columns['annotation_images']]
        left_out = self._run_checks(table, is_readable, is_used)
        if left_out:
            is_used &= ~np.isin(columns['annotation_ids'], list(left_out))
        is_used &= self._is_of_class(table, is_used)
        items = Items(
            table,
            np.flatnonzero(is_readable).astype(np.int32),
            is_used,
            self.cat2label,
            self.data_prefix.get('img', ''),
        )
        if any(getattr(t, 'needs_neighbours', False) for t in all_transforms(self.pipeline)):
            images = [table.images[row] for row in items.rows]
            items = items.with_more(find_neighbours(images, items.folder, self.ann_file))
        return items

    def load_proposals(self) -> None:
        """Add what upstream adds to the items, which are made anew each time."""
        items = self.data_list
        self.data_list = list(items)
        super().load_proposals()
        self.data_list = items.with_more(
            {item['img_id']: dict(proposals=item['proposals']) for item in self.data_list}
        )

    def read_table(self, ann_file: str | None = None) -> AnnotationTable:
        """Like `read_file`, but entries are made when they are asked for."""
        return self._read(read_table, ann_file, index=self.index, max_decoded=MAX_DECODED_MASKS)

    def read_file(self, ann_file: str | None = None) -> CocoFile:
        """Read the annotation file, or another one; an annotation needs a mask if one is loaded.

        Raises:
            DatasetError: If there is no such file.
            AnnotationError: See `read_coco_file`.
        """
        return self._read(read_coco_file, ann_file)

    def _read(self, read: Callable, ann_file: str | None, **kwargs: Any) -> Any:
        ann_file = ann_file or self.ann_file
        needs_masks = any(getattr(t, 'with_mask', False) for t in all_transforms(self.pipeline))
        try:
            return read(ann_file, needs_masks=needs_masks, backend_args=self.backend_args, **kwargs)
        except AnnotationError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            raise DatasetError(
                f'Annotation file {osp.abspath(ann_file)} does not exist. Check data_root '
                f'({self.data_root!r}) and ann_file. {what_is_there(ann_file)}'
            ) from error

    def _select_classes(self, content: dict) -> None:
        """Set `classes`, `cat_ids` and `cat2label`, all in label order."""
        classes = self._metainfo.get('classes')
        if classes is None:
            classes = tuple(category['name'] for category in content['categories'])
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise DatasetError(
                f'metainfo.classes must be a tuple of names, but is {classes!r}; a single class '
                "needs a comma: classes=('LV', )."
            )
        ids = category_ids(content, classes, self.ann_file)
        if not classes or len(set(classes)) < len(classes):
            raise DatasetError(
                f'{self.ann_file}: the classes must be different names, at least one, but are '
                f'{list(classes)} (metainfo.classes, or else the categories of the file).'
            )
        self._metainfo['classes'] = tuple(classes)
        self._metainfo['ann_file'] = self.ann_file
        self._metainfo['invalid'] = self.invalid  # metrics read the same file
        self.cat_ids = [ids[name] for name in classes]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}

    def _compare_preprocessing(self, content: dict) -> None:
        """Note how the images were made, and that the pipeline does not do so again."""
        stored = (content.get('info') or {}).get('preprocessing')
        if stored is None:
            return
        self._metainfo['preprocessing'] = stored
        for transform in all_transforms(self.pipeline):
            own = getattr(transform, 'preprocessing', None)
            if own is None:
                continue
            try:
                own.after(type(own).from_dict(stored))
            except UserError as error:
                raise DatasetError(
                    f"{self.ann_file}: its info['preprocessing'] contradicts "
                    f'{type(transform).__name__} of the pipeline: {error}\n'
                    f'  in the file:     {stored}\n  in the pipeline: {own}'
                ) from error

    def _is_of_class(self, table: AnnotationTable, is_possible: np.ndarray) -> np.ndarray:
        """For each annotation, whether its class is in use; log how many are of others."""
        categories = table.columns['annotation_categories']
        is_of_class = np.isin(categories, self.cat_ids)
        unused, firsts, numbers = np.unique(
            categories[is_possible & ~is_of_class], return_index=True, return_counts=True
        )
        if len(unused):
            names = {c['id']: c['name'] for c in table.head['content']['categories']}
            counts = ', '.join(f'{names[int(unused[i])]}: {numbers[i]}' for i in np.argsort(firsts))
            print_log(f'{self.ann_file}: annotations of classes not in use: {counts}.', 'current')
        return is_of_class

    def _run_checks(
        self, table: AnnotationTable, is_readable: np.ndarray, is_possible: np.ndarray
    ) -> set[int]:
        """Log or raise what the checks find; return the ids of annotations to skip."""
        if is_readable.all():
            findings = table.findings(self.severities, MAX_DECODED_MASKS)
        else:
            content = dict(
                table.content(),
                images=[table.images[row] for row in np.flatnonzero(is_readable)],
                annotations=[table.annotations[place] for place in np.flatnonzero(is_possible)],
            )
            findings = check_content(content, self.severities, MAX_DECODED_MASKS)
        for name in self.other_splits:
            path = name if is_abs(name) else join_path(self.data_root, name)
            other = self.read_table(path).content()
            findings += compare_splits(table.content(), other, name, self.severities)

        left_out, errors = set(), []
        for finding in findings:
            text = finding.describe(REPORTED_PROBLEMS)
            if finding.severity == 'warn':
                print_log(f'{self.ann_file}: {text}', 'current', 30)
            elif finding.annotation_ids and self.invalid == 'skip':
                print_log(f'{self.ann_file}: {text}\nThey are skipped.', 'current', 30)
                left_out.update(finding.annotation_ids)
            else:
                errors.append(finding)
        if errors:
            raise DatasetError(describe_errors(self.ann_file, errors))
        return left_out

    def _find_unreadable_images(self, images: Sequence[dict]) -> dict[int, str]:
        """Problems of image files by image id; only local files can be looked at beforehand."""
        outside = [] if self.allow_outside else [i for i in images if leaves_folder(i['file_name'])]
        if outside:
            raise DatasetError(
                f'{self.ann_file}: {len(outside)} images lie outside of the image folder '
                f'({self.data_prefix.get("img", "")}), the first is image {outside[0]["id"]}, '
                f'{outside[0]["file_name"]!r}. Set data_prefix.img to the folder that file_name is '
                'relative to, or allow_outside=True if you trust this file.'
            )
        if not self._is_local(self.ann_file):
            return {}
        try:
            return find_unreadable(
                images,
                self.data_prefix.get('img', ''),
                decode=self.invalid == 'skip',
                name=self.ann_file,
            )
        except DatasetError as error:
            raise DatasetError(
                f'{error} Check data_root ({self.data_root!r}) and data_prefix '
                f'({dict(self.data_prefix)}).'
            ) from error

    def _is_local(self, path: str) -> bool:
        return isinstance(get_file_backend(path, backend_args=self.backend_args), LocalBackend)

    def filter_data(self) -> Items:
        """Apply `filter_cfg` (`filter_empty_gt`, `min_size` in pixels) and say what it removed."""
        filter_cfg = {} if self.test_mode or self.filter_cfg is None else self.filter_cfg
        items = self.data_list
        is_empty = np.zeros(len(items), bool)
        if filter_cfg.get('filter_empty_gt', False):
            is_empty = items.how_many_instances() == 0
        is_small = ~is_empty & (items.sides().min(axis=1) < filter_cfg.get('min_size', 0))
        kept, empty, small = items.take(~is_empty & ~is_small), is_empty.sum(), is_small.sum()
        of_category = items.how_many_of_category()
        found = Counter({self.cat2label[i]: number for i, number in of_category.items()})
        classes = self._metainfo['classes']
        counts = ', '.join(f'{name} {found[label]}' for label, name in enumerate(classes))
        summary = (
            f'{self.ann_file}: {len(kept)} of {len(items)} images used '
            f'({empty} without an instance, {small} too small left out); '
            f'instances: {counts}.'
        )
        if not kept:
            raise DatasetError(
                f'No image is left. {summary}\n'
                f'  asked for (metainfo.classes): {list(classes)}\n'
                f'  annotated in the file:        {[classes[label] for label in sorted(found)]}\n'
                'Check the file, metainfo.classes and filter_cfg.'
            )
        print_log(summary, 'current')
        return kept

    def prepare_data(self, idx: int):
        """Run the pipeline; an error in it names the image.

        Raises:
            DatasetError: If the image cannot be read or is not of the size the JSON says.
        """
        info = self.get_data_info(idx)
        path, img_id = info['img_path'], info['img_id']
        width, height = info['width'], info['height']
        where = f'{self.ann_file}, image {img_id}'
        # Looked for afterwards, as the pipeline changes `info`.
        arguments = (path, width, height, info.get('slice_index'), info.get('frame_index'))
        try:
            data = self.pipeline(info)
        except Exception as error:
            problem = find_image_problem(*arguments) if self._is_local(path) else None
            raise DatasetError(
                f'{where} ({path}): ' + (problem or f'{type(error).__name__}: {error}')
            ) from error
        sample = data.get('data_samples') if isinstance(data, dict) else None
        if sample is not None and tuple(sample.ori_shape[:2]) != (height, width):
            found_height, found_width = sample.ori_shape[:2]
            raise DatasetError(
                f'{where}: {size_problem(path, found_width, found_height, width, height)}'
            )
        return data


def describe_errors(ann_file: str, errors: list[Finding]) -> str:
    """Message for what the checks found and how to go on."""
    lines = [f'{ann_file} should not be used as it is:']
    lines += [error.describe(REPORTED_PROBLEMS) for error in errors]
    choices = ', '.join(f"{error.check}='warn'" for error in errors)
    lines.append(f"Correct it, or accept it with `checks=dict({choices})` in the data set's config")
    if any(error.annotation_ids for error in errors):
        lines[-1] += ", or leave such annotations out with `invalid='skip'`"
    return '\n'.join(lines) + '.'
