"""Which of the shipped configs fits a data set, told from its annotation files."""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swin_ext.coco.categories import normal_name
from swin_ext.coco.checks import CAVITY_NAMES, RING_NAMES
from swin_ext.coco.reading import read_coco_file, what_is_there
from swin_ext.utils.errors import UserError

TRAIN_FILES = ('train.json', 'annotations/instances_train2017.json')
VAL_FILES = ('val.json', 'annotations/instances_val2017.json')
HEART_NAMES = frozenset((*CAVITY_NAMES, *RING_NAMES, 'rv', 'rvc', 'right ventricle'))
MICROPLASTICS = frozenset(('fiber', 'fragment', 'film'))
# Of Swin in Mask2Former, by the number of images: a larger one needs more to learn from.
FEW, MANY = 1000, 5000
# What Mask2Former of the shipped configs gives of an image at most; none of the heart has more.
MAX_PER_IMAGE = 20


class SuggestionError(UserError, ValueError):
    """Data that no shipped config fits."""


@dataclass(frozen=True)
class DataSummary:
    """What annotation files say of a training.

    Attributes:
        root: Folder that the files are relative to.
        train: Annotation file of the training, relative to `root`.
        val: Likewise of the validation; None if there is none.
        num_images: Images of `train` with an instance.
        num_empty: Images of `train` without one, which training leaves out.
        instances: Of `train`, by class, in the order of the categories.
        image_size: Median height and width in pixels.
        object_side: Median of the square root of the boxes' areas, in pixels.
        most_in_one: Instances of the image that has most.
        is_cardiac: Whether classes or entries are those of cardiac MR.
    """

    root: Path
    train: str
    val: str | None
    num_images: int
    num_empty: int
    instances: Counter
    image_size: tuple[int, int]
    object_side: float
    most_in_one: int
    is_cardiac: bool


@dataclass(frozen=True)
class Suggestion:
    """A shipped config, the values it needs, and why it is the one.

    Attributes:
        config: Path below `configs/`.
        options: For `--cfg-options`.
    """

    config: str
    options: tuple[str, ...]
    reasons: tuple[str, ...]


def suggest_config(data: Sequence[str | os.PathLike], device: str = 'auto') -> str:
    """Text with what there is, one config, the command to run it and why.

    Args:
        data: A data root, or the annotation file of the training and that of the validation.
        device: 'gpu', 'cpu', or 'auto' to look for an NVIDIA driver on this machine.

    Raises:
        SuggestionError: If no annotation file is found, annotations have no masks, or the
            validation has other classes.
        AnnotationError: See `read_coco_file`.
    """
    summary = summarise(data)
    if device == 'auto':
        device = 'gpu' if shutil.which('nvidia-smi') else 'cpu'
    suggestion = choose(summary, device)
    classes = ', '.join(f'{name} {number}' for name, number in summary.instances.items())
    height, width = summary.image_size
    command = ['mim', 'train', 'swin_ext', Path(suggestion.config).name, '--cfg-options']
    lines = [
        f'{summary.root / summary.train}: {summary.num_images} images with an instance, '
        f'{summary.num_empty} without',
        f'  size:    {height} x {width} px, objects {summary.object_side:.0f} px (medians)',
        f'  classes: {classes} ({len(summary.instances)})',
        f'config:    configs/{suggestion.config}',
        *(f'  because: {reason}' for reason in suggestion.reasons),
        f'  run:     {shlex.join([*command, *suggestion.options])}',
    ]
    if summary.val is None:
        lines.append('  missing: annotations of a validation (val.json), which training looks for')
    return '\n'.join(lines)


def summarise(data: Sequence[str | os.PathLike]) -> DataSummary:
    """Read what `suggest_config` takes; its arguments and errors."""
    root, train, val = find_files([Path(path) for path in data])
    content = read_coco_file(root / train).content
    names = {category['id']: category['name'] for category in content['categories']}
    if val is not None:
        others = read_coco_file(root / val).content['categories']
        if [each['name'] for each in others] != list(names.values()):
            raise SuggestionError(
                f'{root / val} has the categories {[each["name"] for each in others]}, but '
                f'{root / train} {list(names.values())}. Give both the same, in the same order.'
            )
    annotations = content['annotations']
    without = sum(not each.get('segmentation') for each in annotations)
    if without or not annotations:
        raise SuggestionError(
            f'{root / train}: {without} of {len(annotations)} annotations have no mask, which all '
            'shipped configs train on. Add "segmentation" (polygons or RLE) to each.'
            if annotations
            else f'{root / train}: the list "annotations" is empty.'
        )
    instances = Counter(dict.fromkeys(names.values(), 0))
    instances.update(names[each['category_id']] for each in annotations)
    of_image = Counter(each['image_id'] for each in annotations)
    images = content['images']
    return DataSummary(
        root,
        train,
        val,
        len(of_image),
        len(images) - len(of_image),
        instances,
        tuple(round(statistics.median(i[side] for i in images)) for side in ('height', 'width')),
        statistics.median((each['bbox'][2] * each['bbox'][3]) ** 0.5 for each in annotations),
        max(of_image.values()),
        is_cardiac(names.values(), images),
    )


def find_files(paths: Sequence[Path]) -> tuple[Path, str, str | None]:
    """Root, annotation file of the training, and that of the validation or None."""
    first = paths[0]
    if len(paths) == 1 and first.is_dir():
        train, val = (
            next((name for name in names if (first / name).is_file()), None)
            for names in (TRAIN_FILES, VAL_FILES)
        )
        if train is None:
            raise SuggestionError(
                f'{first} has none of {", ".join(TRAIN_FILES)}. '
                f'{what_is_there(first / TRAIN_FILES[0])} Name the annotation files themselves.'
            )
        return first, train, val
    if len(paths) > 2 or any(path.is_dir() for path in paths):
        raise SuggestionError(
            f'Give one data root, or one or two annotation files, not {len(paths)} paths: '
            f'{", ".join(map(str, paths))}.'
        )
    root = first.parent
    return root, first.name, os.path.relpath(paths[1], root) if len(paths) == 2 else None


def is_cardiac(names: Sequence[str], images: Sequence[dict]) -> bool:
    """Whether a class is a part of the heart, or images are slices with a place in a stack."""
    if any(normal_name(name) in HEART_NAMES for name in names):
        return True
    return any(image.get('spacing_mm') is not None and 'slice' in image for image in images)


def choose(summary: DataSummary, device: str) -> Suggestion:
    """The config for a data set on a 'gpu' or a 'cpu'."""
    options = [f'data_root={summary.root}', f'num_classes={len(summary.instances)}']
    if summary.train not in TRAIN_FILES[:1]:
        options.append(f'train_dataloader.dataset.ann_file={summary.train}')
    if summary.val not in (None, *VAL_FILES[:1]):
        options += [
            f'{split}_dataloader.dataset.ann_file={summary.val}' for split in ('val', 'test')
        ]
    if device == 'cpu':
        reason = 'no GPU (--device gpu if the training has one): the small model trains in minutes'
        return Suggestion('mask_rcnn_swin-nano_cmr.py', tuple(options), (reason,))
    if {normal_name(name) for name in summary.instances} == MICROPLASTICS:
        reason = 'its classes are those of microplastics, for which there is a recipe'
        return Suggestion('mask_rcnn/mask_rcnn_r50_microplastics.py', tuple(options), (reason,))
    size, reason = size_for(summary.num_images)
    reasons = ['a GPU: Mask2Former, from COCO weights', reason]
    if not summary.is_cardiac:
        options.append('image_scale=(1024,1024)')
        reasons.append('no cardiac MR: larger images than that has')
    if summary.most_in_one > MAX_PER_IMAGE:
        options.append('model.test_cfg.max_per_image=100')
        reasons.append(f'up to {summary.most_in_one} instances in an image')
    config = f'mask2former/mask2former_swin-{size}_cmr.py'
    return Suggestion(config, tuple(options), tuple(reasons))


def size_for(num_images: int) -> tuple[str, str]:
    """Letter of Swin's size, and why."""
    if num_images < FEW:
        return 't', f'{num_images} images, fewer than {FEW:,}: Swin-T'
    if num_images <= MANY:
        return 's', f'{num_images} images, {FEW:,} to {MANY:,}: Swin-S'
    return 'b', f'{num_images} images, more than {MANY:,}: Swin-B'
