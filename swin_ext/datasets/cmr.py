"""Cardiac MR instance segmentation in COCO JSON, with every annotation checked."""

from __future__ import annotations

import difflib
import json
import os
import os.path as osp
from collections import Counter, defaultdict
from collections.abc import Sequence

from mmdet.datasets import BaseDetDataset
from mmengine.fileio import LocalBackend, get_file_backend, get_local_path, join_path
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.utils import is_abs
from PIL import Image
from tqdm import tqdm

from swin_ext.coco.checks import (
    Finding,
    check_content,
    compare_splits,
    complete_severities,
    name_annotation,
)
from swin_ext.coco.rle_check import covered_pixels
from swin_ext.images.reading import ImageReadError, read_frame
from swin_ext.utils.errors import UserError

# Contours drawn on sub-pixel grids may end a fraction of a pixel outside the image.
BOX_TOLERANCE_PX = 1.0
REPORTED_PROBLEMS = 10
# Decoding takes about 1 s per 20,000 masks of 256 x 256 px, spent whenever a run starts.
MAX_DECODED_MASKS = 20000
PIL_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff')


class DatasetError(UserError, ValueError):
    """A data set, or one of its files or annotations, cannot be used."""


@DATASETS.register_module()
class CMRDataset(BaseDetDataset):
    """COCO-format instance segmentation whose labels follow the order of `classes`.

    mmdet's `CocoDataset` numbers labels by the order of the JSON's categories, whatever order
    `metainfo['classes']` has, and drops invalid annotations without a word. Here label i is
    always `classes[i]`, and what is invalid ends the run or, on request, is skipped and counted.
    The data set's metainfo also carries `ann_file`, so that a metric can evaluate against the
    very file that was loaded.

    What each entry may be, but the data set as a whole should not, is checked as well, see
    `dataset_checks.SEVERITIES`: an 'error' ends the run, a 'warn' is logged with its count and
    first ids. `tools/check_dataset.py` runs the same checks on all splits, with pictures.

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
        checks: Severities that differ from `dataset_checks.SEVERITIES`, for example
            dict(filled_ring='error', mixed_spacing='ignore'). Annotations with an empty mask or a
            wrong box are skipped where `invalid='skip'`.
        other_splits: Annotation files, relative to `data_root`, that must share no patient with
            this one and have the same categories.

    Raises:
        DatasetError: If the JSON cannot be read, a class is not in it, an image or annotation is
            invalid (and `invalid='error'`), a check of severity 'error' fails, or no image is
            left.
        ValueError: If `checks` names no check or no severity.
    """

    def __init__(
        self,
        *args,
        invalid: str = 'error',
        checks: dict | None = None,
        other_splits: Sequence[str] = (),
        **kwargs,
    ):
        if invalid not in ('error', 'skip'):
            raise ValueError(f"CMRDataset: invalid={invalid!r} must be 'error' or 'skip'.")
        self.invalid = invalid
        self.severities = complete_severities(checks)
        self.other_splits = (other_splits,) if isinstance(other_splits, str) else other_splits
        super().__init__(*args, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file."""
        content = self.read_content()
        self._select_classes(content['categories'])
        problems = self._check_ids(content)
        if not content['annotations']:
            problems.append('the list "annotations" is empty')
        if problems:
            raise DatasetError(self._describe(problems))  # no way to skip these

        unreadable = self._find_unreadable_images(content['images'])
        images = {
            image['id']: image for image in content['images'] if image['id'] not in unreadable
        }
        annotations, impossible = select_possible(content, images)
        problems = list(unreadable.values()) + impossible
        if problems and self.invalid == 'error':
            raise DatasetError(
                self._describe(problems) + '\nCorrect them, or leave them out with '
                "`invalid='skip'` in the data set's config."
            )
        if problems:
            print_log(self._describe(problems) + '\nThey are skipped.', 'current', 30)

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

        neighbours = self._find_neighbours(images.values())
        return [
            dict(
                img_path=self._image_path(image),
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

    def read_content(self, ann_file: str | None = None) -> dict:
        """Read the annotation file, or another one, as it is."""
        ann_file = ann_file or self.ann_file
        try:
            with get_local_path(ann_file, backend_args=self.backend_args) as path:
                with open(path, 'rb') as file:
                    text = file.read()
            content = json.loads(text)
        except FileNotFoundError as error:
            raise DatasetError(
                f'Annotation file {osp.abspath(ann_file)} does not exist. Check data_root '
                f'({self.data_root!r}) and ann_file.'
            ) from error
        except ValueError as error:
            raise DatasetError(
                f'{ann_file} is not valid JSON ({error}); it may be truncated: {len(text)} bytes.'
            ) from error
        for key in ('images', 'annotations', 'categories'):
            if not isinstance(content, dict) or not isinstance(content.get(key), list):
                raise DatasetError(f'{ann_file} is not a COCO file: it has no list {key!r}.')
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
                "needs a comma: classes=('LV', )."
            )
        missing = [name for name in classes if name not in ids]
        if missing:
            raise DatasetError(
                f'{self.ann_file} has no category {missing}.\n'
                f'  asked for (metainfo.classes): {list(classes)}\n'
                f'  in the file:                  {list(ids)}\n' + suggest_names(missing, ids)
            )
        self._metainfo['classes'] = tuple(classes)
        self._metainfo['ann_file'] = self.ann_file
        self.cat_ids = [ids[name] for name in classes]
        self.cat2label = {cat_id: label for label, cat_id in enumerate(self.cat_ids)}

    def _check_ids(self, content: dict) -> list[str]:
        problems = []
        image_ids = Counter(image['id'] for image in content['images'])
        for kind, counts in (
            ('image', image_ids),
            ('annotation', Counter(a['id'] for a in content['annotations'])),
            ('category', Counter(c['id'] for c in content['categories'])),
        ):
            problems += [f'{kind} id {i} occurs {n} times' for i, n in counts.items() if n > 1]
        problems += [
            f'annotation {a["id"]}: its image_id {a["image_id"]} is no image of the file'
            for a in content['annotations']
            if a['image_id'] not in image_ids
        ]
        return problems

    def _run_checks(self, content: dict) -> set[int]:
        """Log or raise what the checks find; return the ids of annotations to skip."""
        findings = check_content(content, self.severities, MAX_DECODED_MASKS)
        for name in self.other_splits:
            path = name if is_abs(name) else join_path(self.data_root, name)
            findings += compare_splits(content, self.read_content(path), name, self.severities)

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

    def _find_neighbours(self, images: Sequence[dict]) -> dict[int, dict]:
        """What `LoadCMRImage` needs to show an image with others of its patient, by image id.

        Its stack is a list of (slice, reference), one for each slice at the same time; its cine
        of (frame, reference), one for each time at the same slice. A reference is a tuple of
        img_path, slice_index and frame_index.
        """
        if not any(getattr(t, 'needs_neighbours', False) for t in self.pipeline.transforms):
            return {}
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
                        f'{self.ann_file}: images {twin["id"]} and {image["id"]} are both '
                        f'{position} {image[position]} of patient {image["patient_id"]}. Tell '
                        'them apart with "phase" or "frame", or with another patient_id.'
                    )
            for group in groups.values():
                references = [
                    (
                        number,
                        (
                            self._image_path(image),
                            *(image.get(key) for key in ('slice_index', 'frame_index')),
                        ),
                    )
                    for number, image in sorted(group.items())
                ]
                for number, image in group.items():
                    neighbours[image['id']].update({position: number, series: references})
        return neighbours

    def _image_path(self, image: dict) -> str:
        return osp.join(self.data_prefix.get('img', ''), image['file_name'])

    def _find_unreadable_images(self, images: list[dict]) -> dict:
        """Problems of image files by image id; only local files can be looked at beforehand."""
        if not self._is_local(self.ann_file):
            return {}
        problems = {}
        listings = {}  # one listing per folder is far cheaper than one stat per image
        for image in tqdm(
            images,
            f'Decoding images of {osp.basename(self.ann_file)}',
            disable=self.invalid == 'error',
        ):
            path = self._image_path(image)
            folder, name = osp.split(path)
            if folder not in listings:
                listings[folder] = (
                    set(os.listdir(folder or '.')) if osp.isdir(folder or '.') else set()
                )
            if name not in listings[folder]:
                problems[image['id']] = f'image {image["id"]}: {path} does not exist'
            elif self.invalid == 'skip':
                problem = find_image_problem(
                    path, image['width'], image['height'], **place_in_file(image)
                )
                if problem:
                    problems[image['id']] = f'image {image["id"]}: {problem}'
        return problems

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


def place_in_file(image: dict) -> dict:
    """Return `slice_index` and `frame_index` of an image entry as far as it has them."""
    return {key: image[key] for key in ('slice_index', 'frame_index') if image.get(key) is not None}


def describe_errors(ann_file: str, errors: list[Finding]) -> str:
    """Message for what the checks found and how to go on."""
    lines = [f'{ann_file} should not be used as it is:']
    lines += [error.describe(REPORTED_PROBLEMS) for error in errors]
    choices = ', '.join(f"{error.check}='warn'" for error in errors)
    lines.append(f"Correct it, or accept it with `checks=dict({choices})` in the data set's config")
    if any(error.annotation_ids for error in errors):
        lines[-1] += ", or leave such annotations out with `invalid='skip'`"
    return '\n'.join(lines) + '.'


def suggest_names(missing: list[str], available) -> str:
    """One line per missing name with the nearest available ones."""
    lines = []
    for name in missing:
        lowered = {other.lower(): other for other in available}
        near = difflib.get_close_matches(name.lower(), lowered, n=3, cutoff=0.4)
        if near:
            lines.append(f'  {name!r}: did you mean {" or ".join(repr(lowered[n]) for n in near)}?')
    return '\n'.join(lines)


def find_image_problem(
    path: str,
    width: int,
    height: int,
    slice_index: int | None = None,
    frame_index: int | None = None,
) -> str | None:
    """Say what is wrong with an image file that should have this size in pixels, if anything."""
    try:
        if path.lower().endswith(PIL_SUFFIXES):
            with Image.open(path) as image:
                image.load()
                found_width, found_height = image.size
        else:
            found_height, found_width = read_frame(
                path, slice_index=slice_index, frame_index=frame_index
            ).shape
    except (OSError, SyntaxError) as error:  # also PIL.UnidentifiedImageError
        return f'{path} cannot be read ({error})'
    except (ImageReadError, ImportError) as error:
        return str(error)
    if (found_width, found_height) != (width, height):
        return size_problem(path, found_width, found_height, width, height)
    return None


def size_problem(path: str, found_width: int, found_height: int, width: int, height: int) -> str:
    """Message for an image of another size than the JSON says."""
    return f'{path} is {found_width} x {found_height} px, but the JSON says {width} x {height}'


def select_possible(content: dict, images: dict) -> tuple[list[dict], list[str]]:
    """Return the annotations of `images` that can be used, and what is wrong with the others.

    Args:
        content: A COCO file whose ids are sound.
        images: Entries of the images to use, by id.
    """
    known_ids = {category['id'] for category in content['categories']}
    problems = {}
    candidates = [a for a in content['annotations'] if a['image_id'] in images]
    for annotation in candidates:
        problem = find_problem(annotation, images[annotation['image_id']], known_ids)
        if problem:
            problems[annotation['id']] = problem
    encoded = [
        a for a in candidates if a['id'] not in problems and isinstance(a.get('segmentation'), dict)
    ]
    for annotation, problem in zip(encoded, find_damaged_rles(encoded)):
        if problem:
            problems[annotation['id']] = (
                name_annotation(annotation, images[annotation['image_id']]) + problem
            )
    return [a for a in candidates if a['id'] not in problems], list(problems.values())


def find_damaged_rles(annotations: list[dict]) -> list[str | None]:
    """Say for each run-length encoding what is wrong with it, if anything."""
    counts = [a['segmentation']['counts'] for a in annotations]
    compressed = [i for i, c in enumerate(counts) if isinstance(c, (str, bytes))]
    covered = [sum(c) if isinstance(c, list) and min(c) >= 0 else -1 for c in counts]
    sums = covered_pixels(
        [
            counts[i] if isinstance(counts[i], bytes) else counts[i].encode('ascii', 'replace')
            for i in compressed
        ]
    )
    for i, pixels in zip(compressed, sums):
        covered[i] = pixels
    problems = []
    for annotation, pixels in zip(annotations, covered):
        height, width = annotation['segmentation']['size']
        problems.append(
            None
            if pixels == height * width
            else (
                'its RLE is damaged, '
                + (
                    'its counts are no run lengths'
                    if pixels < 0
                    else f'its runs cover {pixels} of {height * width} px'
                )
            )
        )
    return problems


def find_problem(annotation: dict, image: dict, category_ids: set) -> str | None:
    """Say what makes a COCO annotation impossible for its image, if anything."""
    where = name_annotation(annotation, image)
    if annotation['category_id'] not in category_ids:
        return where + f'category_id {annotation["category_id"]} is not in "categories"'
    width, height = image['width'], image['height']
    x, y, w, h = annotation['bbox']
    if w < 1 or h < 1:
        return where + f'bbox {annotation["bbox"]} is smaller than one pixel'
    if (
        min(x, y) < -BOX_TOLERANCE_PX
        or x + w > width + BOX_TOLERANCE_PX
        or y + h > height + BOX_TOLERANCE_PX
    ):
        return where + f'bbox {annotation["bbox"]} leaves the image of {width} x {height} px'
    segmentation = annotation.get('segmentation')
    if isinstance(segmentation, dict):
        if list(segmentation.get('size', ())) != [height, width]:
            return where + (
                f'its RLE has size {segmentation.get("size")}, but the image has '
                f'[height, width] = {[height, width]}'
            )
        if not segmentation.get('counts'):
            return where + 'its RLE has no counts'
    elif segmentation and any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
        return where + 'a polygon needs at least three x, y pairs'
    return None
