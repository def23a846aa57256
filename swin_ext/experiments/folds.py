"""Annotation files of folds, so that each patient is held out once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swin_ext.coco.entries import STUDY_WARNINGS
from swin_ext.coco.reading import read_coco_file
from swin_ext.conversion.splits import split_patients
from swin_ext.experiments.errors import ExperimentError
from swin_ext.utils.files import replacing_text

SHOWN = 3  # entries that an error names
WHERE_PIXELS_ARE = ('file_name', 'slice_index', 'frame_index')


@dataclass(frozen=True)
class Fold:
    """Annotation files of one fold: `train` without, `val` with the patients held out."""

    train: Path
    val: Path
    held_out: tuple[str, ...]
    num_train_images: int
    num_val_images: int


def join_annotations(paths: Sequence[Path]) -> dict:
    """Content of annotation files as that of one, images and annotations numbered anew from 1.

    Raises:
        AnnotationError: If one cannot be used, see `read_coco_file`, or has an annotation that is
            impossible.
        ExperimentError: If they have different categories or preprocessing, or an image is in two.
    """
    contents = []
    for path in paths:
        file = read_coco_file(path, text_ids=True)
        if file.problems:
            raise ExperimentError(
                f'{path}: {len(file.problems)} annotations are impossible, the first is '
                f'{file.problems[0]}. Correct them first; tools/check_dataset.py lists all.'
            )
        contents.append(file.content)
    first = contents[0]
    info = dict(first.get('info') or {})
    joined = dict(info=info, categories=first['categories'], images=[], annotations=[])
    seen = {}
    for path, content in zip(paths, contents):
        _check_same(paths[0], first, path, content)
        other = content.get('info') or {}
        if other.get(STUDY_WARNINGS):
            info[STUDY_WARNINGS] = {**info.get(STUDY_WARNINGS, {}), **other[STUDY_WARNINGS]}
        number_of = {}
        for image in content['images']:
            key = tuple(image.get(name) for name in WHERE_PIXELS_ARE)
            if key in seen:
                raise ExperimentError(
                    f'{path}: image {image["file_name"]} is in {seen[key]}, too. A fold could '
                    'train on what it is tested on: leave it out of one of them.'
                )
            seen[key] = path
            number_of[image['id']] = len(joined['images']) + 1
            joined['images'].append(dict(image, id=number_of[image['id']]))
        joined['annotations'] += [
            dict(
                annotation,
                id=len(joined['annotations']) + place,
                image_id=number_of[annotation['image_id']],
            )
            for place, annotation in enumerate(content['annotations'], 1)
        ]
    return joined


def unit_of_images(images: Sequence[dict], by: str, where: str) -> dict[int | str, str]:
    """By id of the image, what it is held out with: its patient, or itself.

    Args:
        by: 'patient' or 'image'.
        where: The file, for errors.

    Raises:
        ExperimentError: If a patient is unknown.
    """
    if by == 'image':
        return {image['id']: str(image['file_name']) for image in images}
    unknown = [image['file_name'] for image in images if image.get('patient_id') is None]
    if unknown:
        raise ExperimentError(
            f'{where}: {len(unknown)} of {len(images)} images have no "patient_id": '
            f'{", ".join(unknown[:SHOWN])}{", ..." if len(unknown) > SHOWN else ""}. Slices of one '
            'patient resemble each other, so patients must be known. Add it to the images; or, if '
            'each image is of another patient, take --by image.'
        )
    return {image['id']: str(image['patient_id']) for image in images}


def write_folds(content: dict, number: int, seed: int, by: str, folder: Path) -> list[Fold]:
    """Split patients into folds and write `fold_N/train.json` and `fold_N/val.json`.

    Raises:
        ArgumentError: If there are fewer patients than folds.
        ExperimentError: If a patient is unknown.
    """
    unit_of = unit_of_images(content['images'], by, 'The annotations')
    splits = split_patients(sorted(set(unit_of.values())), folds=number, seed=seed)
    folds = []
    for index in range(number):
        paths, counts = [], []
        for name in ('train', 'val'):
            chosen = set(splits[f'{name}_fold{index}'])
            part = _part(content, {id_ for id_, unit in unit_of.items() if unit in chosen})
            paths.append(folder / f'fold_{index}' / f'{name}.json')
            counts.append(len(part['images']))
            with replacing_text(paths[-1]) as file:
                json.dump(part, file)
        folds.append(Fold(*paths, tuple(splits[f'val_fold{index}']), *counts))
    return folds


def _part(content: dict, ids: set) -> dict:
    return dict(
        content,
        images=[image for image in content['images'] if image['id'] in ids],
        annotations=[a for a in content['annotations'] if a['image_id'] in ids],
    )


def _check_same(first_path: Path, first: dict, path: Path, content: dict) -> None:
    for what, values in (
        (
            'categories',
            [{c['name']: c['id'] for c in each['categories']} for each in (first, content)],
        ),
        (
            'preprocessing',
            [(each.get('info') or {}).get('preprocessing') for each in (first, content)],
        ),
    ):
        if values[0] != values[1]:
            raise ExperimentError(
                f'{first_path} and {path} differ in their {what}: {values[0]} and {values[1]}. '
                'Convert them together, so that folds can have images of both.'
            )
