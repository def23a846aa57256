"""Cardiac MR instance segmentation in COCO JSON, with every annotation checked."""

from __future__ import annotations

import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Sequence

from mmdet.datasets import BaseDetDataset
from mmengine.fileio import LocalBackend, get_file_backend, join_path
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.utils import is_abs

from swin_ext.coco.categories import category_ids, suggest_names
from swin_ext.coco.checks import Finding, check_content, compare_splits, complete_severities
from swin_ext.coco.errors import AnnotationError
from swin_ext.coco.reading import (
    REPORTED_PROBLEMS,
    CocoFile,
    describe_problems,
    describe_repairs,
    read_coco_file,
    what_is_there,
)
from swin_ext.datasets.errors import DatasetError
from swin_ext.datasets.image_files import (
    find_image_problem,
    find_unreadable,
    leaves_folder,
    place_in_file,
    size_problem,
)
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

    Raises:
        DatasetError: If the JSON cannot be read, a class is not in it, an image or annotation is
            invalid (and `invalid='error'`), a check of severity 'error' fails, no image is
            left, or the pipeline windows images that have been windowed already.
        ValueError: If `checks` names no check or no severity.
    """

    def __init__(
        self,
        *args,
        invalid: str = 'error',
        checks: dict | None = None,
        other_splits: Sequence[str] = (),
        allow_outside: bool = False,
        **kwargs,
    ):
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
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file."""
        try:
            return self._load_data_list()
        except AnnotationError as error:
            raise DatasetError(str(error)) from error

    def _load_data_list(self) -> list[dict]:
        file = self.read_file()
        content = file.content
        if file.repairs:
            print_log(describe_repairs(self.ann_file, file.repairs), 'current', 30)
        self._select_classes(content)
        self._compare_preprocessing(content)
        if not content['annotations'] and not file.problems:
            raise DatasetError(f'{self.ann_file}: the list "annotations" is empty.')

        unreadable = self._find_unreadable_images(content['images'])
        images = {
            image['id']: image for image in content['images'] if image['id'] not in unreadable
        }
        annotations = [a for a in content['annotations'] if a['image_id'] in images]
        problems = [*unreadable.values(), *file.problems]
        if problems:
            text = describe_problems(self.ann_file, problems)
            if self.invalid == 'error':
                raise DatasetError(
                    f'{text}\nCorrect them, or leave them out with '
                    "`invalid='skip'` in the data set's config."
                )
            print_log(f'{text}\nThey are skipped.', 'current', 30)

        left_out = self._run_checks(
            dict(content, images=list(images.values()), annotations=annotations)
        )
        of_image, unused = defaultdict(list), Counter()
        for annotation in annotations:
            if annotation['id'] in left_out:
                continue
            if annotation['category_id'] in self.cat2label:
                of_image[annotation['image_id']].append(self._parse_annotation(annotation))
            else:
                unused[annotation['category_id']] += 1
        if unused:
            names = {category['id']: category['name'] for category in content['categories']}
            counts = ', '.join(f'{names[i]}: {n}' for i, n in unused.items())
            print_log(f'{self.ann_file}: annotations of classes not in use: {counts}.', 'current')

        neighbours = {}
        if any(getattr(t, 'needs_neighbours', False) for t in all_transforms(self.pipeline)):
            neighbours = find_neighbours(
                list(images.values()), self.data_prefix.get('img', ''), self.ann_file
            )
        return [
            dict(
                img_path=osp.join(self.data_prefix.get('img', ''), image['file_name']),
                img_id=image['id'],
                seg_map_path=None,
                height=image['height'],
                width=image['width'],
                instances=of_image[image['id']],
                **place_in_file(image),
                **neighbours.get(image['id'], {}),
            )
            for image in images.values()
        ]

    def read_file(self, ann_file: str | None = None) -> CocoFile:
        """Read the annotation file, or another one; an annotation needs a mask if one is loaded.

        Raises:
            DatasetError: If there is no such file.
            AnnotationError: See `read_coco_file`.
        """
        ann_file = ann_file or self.ann_file
        needs_masks = any(getattr(t, 'with_mask', False) for t in all_transforms(self.pipeline))
        try:
            return read_coco_file(ann_file, needs_masks=needs_masks, backend_args=self.backend_args)
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

    def _run_checks(self, content: dict) -> set[int]:
        """Log or raise what the checks find; return the ids of annotations to skip."""
        findings = check_content(content, self.severities, MAX_DECODED_MASKS)
        for name in self.other_splits:
            path = name if is_abs(name) else join_path(self.data_root, name)
            findings += compare_splits(content, self.read_file(path).content, name, self.severities)

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

    def _find_unreadable_images(self, images: list[dict]) -> dict[int, str]:
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

    def _parse_annotation(self, annotation: dict) -> dict:
        x, y, w, h = annotation['bbox']
        instance = dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=self.cat2label[annotation['category_id']],
            ignore_flag=int(bool(annotation.get('iscrowd') or annotation.get('ignore'))),
        )
        if annotation.get('segmentation'):
            instance['mask'] = annotation['segmentation']
        return instance

    def filter_data(self) -> list[dict]:
        """Apply `filter_cfg` (`filter_empty_gt`, `min_size` in pixels) and say what it removed."""
        filter_cfg = {} if self.test_mode or self.filter_cfg is None else self.filter_cfg
        kept, empty, small = [], 0, 0
        for info in self.data_list:
            if filter_cfg.get('filter_empty_gt', False) and not info['instances']:
                empty += 1
            elif min(info['width'], info['height']) < filter_cfg.get('min_size', 0):
                small += 1
            else:
                kept.append(info)
        found = Counter(i['bbox_label'] for info in self.data_list for i in info['instances'])
        classes = self._metainfo['classes']
        counts = ', '.join(f'{name} {found[label]}' for label, name in enumerate(classes))
        summary = (
            f'{self.ann_file}: {len(kept)} of {len(self.data_list)} images used '
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
