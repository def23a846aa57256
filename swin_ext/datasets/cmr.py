"""Cardiac MR instance segmentation in COCO JSON, with every annotation checked."""
from __future__ import annotations

import difflib
import json
import os
import os.path as osp
from collections import Counter, defaultdict

from mmdet.datasets import BaseDetDataset
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from PIL import Image
from tqdm import tqdm

# Contours drawn on sub-pixel grids may end a fraction of a pixel outside the image.
BOX_TOLERANCE_PX = 1.0
REPORTED_PROBLEMS = 10


class DatasetError(ValueError):
    """A data set, or one of its files or annotations, cannot be used."""


@DATASETS.register_module()
class CMRDataset(BaseDetDataset):
    """COCO-format instance segmentation whose labels follow the order of `classes`.

    mmdet's `CocoDataset` numbers labels by the order of the JSON's categories, whatever order
    `metainfo['classes']` has, and drops invalid annotations without a word. Here label i is
    always `classes[i]`, and what is invalid ends the run or, on request, is skipped and counted.
    The data set's metainfo also carries `ann_file`, so that a metric can evaluate against the
    very file that was loaded.

    Args:
        ann_file: COCO JSON; masks as RLE or polygons, boxes as [x, y, width, height] in pixels.
        metainfo: `classes` selects and orders the classes. Without it, all categories of the
            JSON are used in their order there.
        invalid: What to do with a missing or unreadable image and with an annotation whose
            category, box or mask is impossible: 'error', or 'skip' them with a logged count. For
            'skip' every image is decoded once when the data set is built.

    Raises:
        DatasetError: If the JSON cannot be read, a class is not in it, an image or annotation is
            invalid (and `invalid='error'`), or no image is left.
    """

    def __init__(self, *args, invalid: str = 'error', **kwargs):
        if invalid not in ('error', 'skip'):
            raise ValueError(f"CMRDataset: invalid={invalid!r} must be 'error' or 'skip'.")
        self.invalid = invalid
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file."""
        content = self._read_json()
        self._select_classes(content['categories'])
        problems = self._check_ids(content)
        if not content['annotations']:
            problems.append('the list "annotations" is empty')
        if problems:
            raise DatasetError(self._describe(problems))  # no way to skip these

        unreadable = self._find_unreadable_images(content['images'])
        annotations = defaultdict(list)
        for annotation in content['annotations']:
            annotations[annotation['image_id']].append(annotation)

        known_ids = {category['id'] for category in content['categories']}
        problems, unused, data_list = list(unreadable.values()), Counter(), []
        for image in content['images']:
            if image['id'] in unreadable:
                continue
            instances = []
            for annotation in annotations[image['id']]:
                problem = find_problem(annotation, image, known_ids)
                if problem:
                    problems.append(problem)
                elif annotation['category_id'] in self.cat2label:
                    instances.append(self._parse_annotation(annotation))
                else:
                    unused[annotation['category_id']] += 1
            data_list.append(dict(
                img_path=self._image_path(image), img_id=image['id'], seg_map_path=None,
                height=image['height'], width=image['width'], instances=instances))

        if problems and self.invalid == 'error':
            raise DatasetError(
                self._describe(problems) + '\nCorrect them, or leave them out with '
                "`invalid='skip'` in the data set's config.")
        if problems:
            print_log(self._describe(problems) + '\nThey are skipped.', 'current', 30)
        if unused:
            names = {category['id']: category['name'] for category in content['categories']}
            counts = ', '.join(f'{names[i]}: {n}' for i, n in unused.items())
            print_log(f'{self.ann_file}: annotations of classes not in use: {counts}.', 'current')
        return data_list

    def _read_json(self) -> dict:
        try:
            with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
                with open(path, encoding='utf-8') as file:
                    content = json.load(file)
        except FileNotFoundError as error:
            raise DatasetError(
                f'Annotation file {osp.abspath(self.ann_file)} does not exist. Check data_root '
                f'({self.data_root!r}) and ann_file.') from error
        except ValueError as error:
            raise DatasetError(
                f'{self.ann_file} is not valid JSON ({error}); it may be truncated: '
                f'{osp.getsize(self.ann_file)} bytes.') from error
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise DatasetError(f'{self.ann_file} is not a COCO file: it has no list {key!r}.')
        return content

    def _select_classes(self, categories: list[dict]) -> None:
        """Set `classes`, `cat_ids` and `cat2label`, all in label order."""
        ids = {category['name']: category['id'] for category in categories}
        if len(ids) < len(categories):
            double = [n for n, k in Counter(c['name'] for c in categories).items() if k > 1]
            raise DatasetError(f'{self.ann_file}: category names are not unique: {double}.')
        classes = self._metainfo.get('classes', tuple(ids))
        if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
            raise DatasetError(
                f'metainfo.classes must be a tuple of names, but is {classes!r}; a single class '
                "needs a comma: classes=('LV', ).")
        missing = [name for name in classes if name not in ids]
        if missing:
            raise DatasetError(
                f'{self.ann_file} has no category {missing}.\n'
                f'  asked for (metainfo.classes): {list(classes)}\n'
                f'  in the file:                  {list(ids)}\n' + suggest_names(missing, ids))
        self._metainfo['classes'] = tuple(classes)
        self._metainfo['ann_file'] = self.ann_file
        self.cat_ids = [ids[name] for name in classes]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}

    def _check_ids(self, content: dict) -> list[str]:
        problems = []
        image_ids = Counter(image['id'] for image in content['images'])
        for kind, counts in (('image', image_ids),
                             ('annotation', Counter(a['id'] for a in content['annotations'])),
                             ('category', Counter(c['id'] for c in content['categories']))):
            problems += [f'{kind} id {i} occurs {n} times' for i, n in counts.items() if n > 1]
        problems += [f'annotation {a["id"]}: its image_id {a["image_id"]} is no image of the file'
                     for a in content['annotations'] if a['image_id'] not in image_ids]
        return problems

    def _image_path(self, image: dict) -> str:
        return osp.join(self.data_prefix.get('img', ''), image['file_name'])

    def _find_unreadable_images(self, images: list[dict]) -> dict:
        """Problems of image files by image id; only local files can be looked at beforehand."""
        if self.backend_args is not None and self.backend_args.get('backend') != 'local':
            return {}
        problems = {}
        listings = {}  # one listing per folder is far cheaper than one stat per image
        for image in tqdm(images, f'Decoding images of {osp.basename(self.ann_file)}',
                          disable=self.invalid == 'error'):
            path = self._image_path(image)
            folder, name = osp.split(path)
            if folder not in listings:
                listings[folder] = set(os.listdir(folder or '.')) if osp.isdir(folder or '.') \
                    else set()
            if name not in listings[folder]:
                problems[image['id']] = f'image {image["id"]}: {path} does not exist'
            elif self.invalid == 'skip':
                problem = find_image_problem(path, image['width'], image['height'])
                if problem:
                    problems[image['id']] = f'image {image["id"]}: {problem}'
        return problems

    def _parse_annotation(self, annotation: dict) -> dict:
        x, y, w, h = annotation['bbox']
        instance = dict(
            bbox=[x, y, x + w, y + h],
            bbox_label=self.cat2label[annotation['category_id']],
            ignore_flag=int(bool(annotation.get('iscrowd') or annotation.get('ignore'))))
        if annotation.get('segmentation'):
            instance['mask'] = annotation['segmentation']
        return instance

    def _describe(self, problems: list[str]) -> str:
        lines = [f'{self.ann_file}: {len(problems)} invalid entries:']
        lines += [f'  {problem}' for problem in problems[:REPORTED_PROBLEMS]]
        if len(problems) > REPORTED_PROBLEMS:
            lines.append(f'  ... and {len(problems) - REPORTED_PROBLEMS} more')
        return '\n'.join(lines)

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
        summary = (f'{self.ann_file}: {len(kept)} of {len(self.data_list)} images used '
                   f'({empty} without an instance, {small} too small left out); '
                   f'instances: {counts}.')
        if not kept:
            raise DatasetError(
                f'No image is left. {summary}\n'
                f'  asked for (metainfo.classes): {list(classes)}\n'
                f'  annotated in the file:        {[classes[label] for label in sorted(found)]}\n'
                'Check the file, metainfo.classes and filter_cfg.')
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
        try:
            data = self.pipeline(info)
        except Exception as error:
            problem = find_image_problem(path, width, height) or f'{type(error).__name__}: {error}'
            raise DatasetError(
                f'{self.ann_file}, image {img_id} ({path}): {problem}') from error
        sample = data.get('data_samples') if isinstance(data, dict) else None
        if sample is not None and tuple(sample.ori_shape[:2]) != (height, width):
            raise DatasetError(f'{self.ann_file}, image {img_id}: '
                               f'{find_image_problem(path, width, height)}')
        return data


def suggest_names(missing: list[str], available) -> str:
    """One line per missing name with the nearest available ones."""
    lines = []
    for name in missing:
        lowered = {other.lower(): other for other in available}
        near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.4)
        if near:
            lines.append(f'  {name!r}: did you mean {" or ".join(repr(lowered[n]) for n in near)}?')
    return '\n'.join(lines)


def find_image_problem(path: str, width: int, height: int) -> str | None:
    """Say what is wrong with an image file that should have this size in pixels, if anything."""
    try:
        with Image.open(path) as image:
            image.load()
            size = image.size
    except OSError as error:  # also PIL.UnidentifiedImageError
        return f'{path} cannot be read ({error})'
    if size != (width, height):
        return f'{path} is {size[0]} x {size[1]} px, but the JSON says {width} x {height}'
    return None


def find_problem(annotation: dict, image: dict, category_ids: set) -> str | None:
    """Say what makes a COCO annotation impossible for its image, if anything."""
    where = f'annotation {annotation["id"]} (image {image["id"]}, {image["file_name"]}): '
    if annotation['category_id'] not in category_ids:
        return where + f'category_id {annotation["category_id"]} is not in "categories"'
    width, height = image['width'], image['height']
    x, y, w, h = annotation['bbox']
    if w < 1 or h < 1:
        return where + f'bbox {annotation["bbox"]} is smaller than one pixel'
    if (min(x, y) < -BOX_TOLERANCE_PX or x + w > width + BOX_TOLERANCE_PX
            or y + h > height + BOX_TOLERANCE_PX):
        return where + f'bbox {annotation["bbox"]} leaves the image of {width} x {height} px'
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, dict):
        if list(segmentation.get('size', ())) != [height, width]:
            return where + (f'its RLE has size {segmentation.get("size")}, but the image has '
                            f'[height, width] = {[height, width]}')
        if not segmentation.get('counts'):
            return where + 'its RLE has no counts'
    elif segmentation and any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        return where + 'a polygon needs at least three x, y pairs'
    return None
