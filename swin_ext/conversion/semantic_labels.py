"""Label maps of a COCO data set, as MMSegmentation's `BaseSegDataset` reads them.

- labels/NAME.png: uint8 of the image's size, 0 background, 1 + i for class i, 255 ignored
- SPLIT.txt: names of the split's images, without their suffix, in the order of its JSON
- semantic.json: classes, and for each split and image: spacing, patient, and where it stands in the
  study; hashes of the annotation files

All is written aside, and moved once it is whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path, PurePosixPath

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.coco.categories import category_ids
from swin_ext.coco.file_names import leaves_folder
from swin_ext.coco.masks import to_rle
from swin_ext.coco.reading import read_coco_file
from swin_ext.conversion.errors import ArgumentError
from swin_ext.utils.errors import UserError
from swin_ext.utils.hashes import sha256_of

BACKGROUND, IGNORED = 0, 255
OVERLAPS = ('refuse', 'smaller')
# What an image's entry keeps in semantic.json, where it is said.
KEPT = ('spacing_mm', 'slice_spacing_mm', 'patient_id', 'slice', 'phase', 'frame')


class SemanticLabelError(UserError, ValueError):
    """An annotation file of which no label map can be made."""


@dataclass
class SemanticSet:
    """What was written.

    Attributes:
        classes: Background first; label i is `classes[i]`.
        num_images: By split.
        overlaps: Pixels that two classes claimed, by the pair 'LV, Myo'; the smaller structure
            of the image got them.
        ignored: Pixels of crowds and of annotations to be ignored.
        suffix: Of the image files.
    """

    classes: list[str]
    num_images: dict[str, int] = field(default_factory=dict)
    overlaps: Counter = field(default_factory=Counter)
    ignored: int = 0
    suffix: str = '.png'


def label_map(
    image: dict, annotations: Sequence[dict], labels: dict[int, int], overlaps: str
) -> tuple[np.ndarray, Counter]:
    """Merge the instances of an image.

    Instances of one class become one region. A pixel of several classes is that of the class with
    the fewest pixels in this image (of two as large, the latter), or refused. What is ignored
    (`iscrowd` or `ignore`) is where no instance is.

    Args:
        image: Its entry, with `height` and `width`.
        annotations: Of this image.
        labels: By category id, from 1 on; other categories are background.
        overlaps: One of `OVERLAPS`.

    Returns:
        Labels, uint8 (H, W), and the number of pixels that pairs of labels claimed both.

    Raises:
        SemanticLabelError: If classes overlap and are not to.
    """
    shape = image['height'], image['width']
    regions, ignored = {}, np.zeros(shape, bool)
    for annotation in annotations:
        label = labels.get(annotation['category_id'])
        if label is None:
            continue
        mask = mask_utils.decode(to_rle(annotation['segmentation'], *shape)).astype(bool)
        if annotation['iscrowd'] or annotation.get('ignore'):
            ignored |= mask
        else:
            regions[label] = regions.get(label, False) | mask
    shared = Counter()
    for one, other in combinations(sorted(regions), 2):
        pixels = int(np.count_nonzero(regions[one] & regions[other]))
        if pixels:
            shared[one, other] = pixels
    if shared and overlaps == 'refuse':
        (one, other), pixels = shared.most_common(1)[0]
        raise SemanticLabelError(
            f'image {image["id"]} ({image["file_name"]}): {pixels} pixels belong to two classes, '
            f'of labels {one} and {other}. A label map has one for each. With --overlaps smaller '
            'they become those of the structure with fewer pixels, as a cavity has that is drawn '
            'within a whole ventricle; or correct the annotations.'
        )
    result = np.where(ignored, np.uint8(IGNORED), np.uint8(BACKGROUND))
    # The largest first, to be painted over.
    for label in sorted(regions, key=lambda each: -np.count_nonzero(regions[each])):
        result[regions[label]] = label
    return result, shared


def write_semantic_labels(
    data_root: Path,
    out: Path,
    splits: Sequence[str] = (),
    classes: Sequence[str] = (),
    overlaps: str = 'refuse',
    image_folder: str = 'images',
    overwrite: bool = False,
) -> SemanticSet:
    """Write the label maps of all splits of a data set.

    Args:
        data_root: Folder of the annotation files SPLIT.json and of `image_folder`.
        out: Folder to write to; that of the data set itself, as a rule.
        splits: Names of annotation files; by default train, val and test, as far as they exist.
        classes: In the order of their labels; by default all categories of the first split.
        overlaps: 'refuse', or 'smaller': see `label_map`.
        overwrite: Whether files that are there are replaced.

    Raises:
        AnnotationError: If an annotation file cannot be used, or an annotation has no mask.
        ArgumentError: If there is no split, or `out` has labels already.
        SemanticLabelError: If a label map of a split cannot be made, or not be found by its name.
    """
    splits = splits or [s for s in ('train', 'val', 'test') if (data_root / f'{s}.json').is_file()]
    if not splits:
        raise ArgumentError(
            f'{data_root} has neither train.json, val.json nor test.json. Give the names of its '
            'annotation files with --splits.'
        )
    if (out / 'labels').exists() and not overwrite:
        raise ArgumentError(f'{out / "labels"} exists; give --overwrite to replace its files.')
    contents = {split: _read(data_root / f'{split}.json') for split in splits}
    if not classes:
        categories = sorted(contents[splits[0]]['categories'], key=lambda each: each['id'])
        classes = [category['name'] for category in categories]
    if len(classes) >= IGNORED or 'background' in classes:
        raise SemanticLabelError(
            f'{len(classes)} classes: a label map has room for {IGNORED - 1} beside the '
            "background, and none of them may be named 'background'."
        )
    result = SemanticSet(['background', *classes])
    result.suffix = _check_names(contents, data_root / image_folder)
    about, aside = {}, out / '.semantic.partial'
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for split, content in contents.items():
            ids = category_ids(content, classes, str(data_root / f'{split}.json'))
            labels = {ids[name]: label for label, name in enumerate(classes, 1)}
            about[split] = dict(
                annotations_sha256=sha256_of(data_root / f'{split}.json'),
                images=_write_split(split, content, labels, aside, overlaps, result),
            )
        text = dict(classes=result.classes, overlaps=dict(result.overlaps), splits=about)
        (aside / 'semantic.json').write_text(json.dumps(text, indent=1), encoding='utf-8')
        shutil.rmtree(out / 'labels', ignore_errors=True)
        for name in ('labels', *(f'{split}.txt' for split in contents), 'semantic.json'):
            os.replace(aside / name, out / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return result


def _read(path: Path) -> dict:
    file = read_coco_file(path, needs_masks=True)
    if file.problems:
        raise SemanticLabelError(
            f'{path}: {len(file.problems)} annotations are of no use, the first: '
            f'{file.problems[0]}. tools/check_dataset.py lists them.'
        )
    return file.content


def _check_names(contents: dict[str, dict], images: Path) -> str:
    """Return the one suffix of all images; each is a file, and has a label map of its own."""
    for split, content in contents.items():
        seen = {}
        for image in content['images']:
            name = PurePosixPath(image['file_name'])
            where = f'{split}.json: image {image["id"]} ({image["file_name"]})'
            if leaves_folder(image['file_name']):
                raise SemanticLabelError(f'{where} lies outside of {images}.')
            if not (images / name).is_file():
                raise SemanticLabelError(f'{where} is no file in {images}.')
            is_part = any(image.get(key) is not None for key in ('slice_index', 'frame_index'))
            if is_part or name.with_suffix('') in seen:
                other = seen.get(name.with_suffix(''), 'other images of it')
                raise SemanticLabelError(
                    f'{where} shares its file, or its name but for the suffix, with {other}. '
                    'MMSegmentation finds label maps by the names of image files: write an image '
                    'file for each, with tools/cmr2coco.py.'
                )
            seen[name.with_suffix('')] = f'image {image["id"]}'
    suffixes = sorted(
        {os.path.splitext(i['file_name'])[1] for c in contents.values() for i in c['images']}
    )
    if len(suffixes) != 1:
        raise SemanticLabelError(
            f'the image files have the suffixes {suffixes}; MMSegmentation takes one. Write PNG '
            'files with tools/cmr2coco.py.'
        )
    return suffixes[0]


def _write_split(
    split: str, content: dict, labels: dict[int, int], out: Path, overlaps: str, result: SemanticSet
) -> dict[str, dict]:
    by_image = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        by_image[annotation['image_id']].append(annotation)
    names, about = [], {}
    for image in content['images']:
        try:
            labelled, shared = label_map(image, by_image[image['id']], labels, overlaps)
        except SemanticLabelError as error:
            raise SemanticLabelError(f'{split}.json: {error}') from None
        for (one, other), pixels in shared.items():
            result.overlaps[f'{result.classes[one]}, {result.classes[other]}'] += pixels
        result.ignored += np.count_nonzero(labelled == IGNORED)
        name = os.path.splitext(image['file_name'])[0]
        path, png = out / 'labels' / f'{name}.png', cv2.imencode('.png', labelled)[1].tobytes()
        if path.exists() and path.read_bytes() != png:
            raise SemanticLabelError(
                f'{split}.json: image {image["id"]} ({image["file_name"]}) has other labels in '
                'another split.'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        names.append(name)
        about[name] = {key: image[key] for key in KEPT if image.get(key) is not None}
    (out / f'{split}.txt').write_text('\n'.join([*names, '']), encoding='utf-8')
    result.num_images[split] = len(names)
    return about
