"""Write one study: its PNG files and a JSON-lines file with its COCO entries."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.conversion.burned_in import check_burned_in
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.settings import Settings
from swin_ext.conversion.stack_rules import StackError, settle_stacks
from swin_ext.conversion.study import LabelledSlice, LabelMap, Study
from swin_ext.images.preprocessing import Preprocessing

# Row and column spacing that differ by less than this fraction are one number in the JSON.
ISOTROPY_TOLERANCE = 1e-3


def study_file(out: Path, patient_id: str) -> Path:
    return out / 'studies' / f'{patient_id}.jsonl'


def image_folder(out: Path, patient_id: str) -> Path:
    return out / 'images' / patient_id


def write_study(
    study: Study, patient_id: str, out: Path, settings: Settings, fingerprint: str
) -> None:
    """Convert one study into `out/images/PATIENT_ID/*.png` and `out/studies/PATIENT_ID.jsonl`.

    Everything is written aside and moved into place at the end, the JSON-lines file last, so that
    a study with this file is whole. Its first line is about the study, every other line holds one
    image with its annotations, without ids.

    Raises:
        ConversionError: If the study cannot be read, or is none that could be evaluated.
        OSError: If it cannot be written; nothing of it is left behind.
    """
    aside = out / '.partial' / patient_id
    shutil.rmtree(aside, ignore_errors=True)
    (aside / 'images').mkdir(parents=True)
    try:
        left_out, noted, doubts = Counter(), Counter(), {}
        lines = _write_slices(
            study, patient_id, settings, aside / 'images', left_out, noted, doubts
        )
        with open(aside / 'study.jsonl', 'w', encoding='utf-8') as file:
            header = dict(
                patient_id=patient_id,
                fingerprint=fingerprint,
                left_out=left_out,
                noted=noted,
                doubts=list(doubts),
            )
            for line in (header, *lines):
                file.write(json.dumps(line, allow_nan=False) + '\n')
        images = image_folder(out, patient_id)
        # From here on it is an interrupted study, for which `aside` stands, or it is whole.
        study_file(out, patient_id).unlink(missing_ok=True)
        try:
            if images.exists():
                shutil.rmtree(images)
            if settings.pixels != 'none':
                images.parent.mkdir(exist_ok=True)
                (aside / 'images').rename(images)
            study_file(out, patient_id).parent.mkdir(exist_ok=True)
            os.replace(aside / 'study.jsonl', study_file(out, patient_id))
        except BaseException:  # a full disk, or Ctrl+C
            shutil.rmtree(images, ignore_errors=True)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _write_slices(
    study: Study,
    patient_id: str,
    settings: Settings,
    folder: Path,
    left_out: Counter,
    noted: Counter,
    doubts: dict[str, None],
) -> list[dict]:
    """Write the PNG files of a study into `folder` and return the lines of its JSON-lines file.

    Args:
        doubts: Gets those of its slices as keys, each once.
    """
    place = study.root / study.patient
    check_burned_in(study.source_files(), settings.allow_burned_in, noted)
    lines, names = [], set()
    for item in _read(study, settings.labels, left_out):
        if item.name in names:
            raise ConversionError(
                'two volumes of the study yield slices of the same name',
                'Give the patterns a field {phase} or {frame}',
                item.source,
            )
        names.add(item.name)
        doubts.update(dict.fromkeys(item.doubts))
        with explaining(item.source, OSError):  # those of the output are no fault of the study
            lines.append(encode_slice(item, study, patient_id, settings, folder))
    try:
        kept = settle_stacks(lines, settings.keep_empty, left_out)
    except StackError as error:
        raise ConversionError(*error.args, place) from None
    if not kept:
        counts = ', '.join(f'{key}: {count}' for key, count in left_out.items())
        raise ConversionError(
            'nothing of it can be converted' + f' ({counts})' * bool(counts),
            'Check its labels, or leave it out',
            place,
        )
    if settings.pixels != 'none':
        wanted = {Path(line['image']['file_name']).name for line in kept}
        for path in folder.iterdir():
            if path.name not in wanted:
                path.unlink()
    return kept


def _read(study: Study, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
    with explaining(study.root / study.patient):
        yield from study.read(labels, left_out)


@contextmanager
def explaining(path: Path, *passed_on: type[Exception]) -> Iterator[None]:
    """Raise whatever fails inside as a `ConversionError`, so that no study ends a run.

    Args:
        path: What the error names, unless it is about a file by itself.
        passed_on: Errors that are raised as they are; lack of memory always is.
    """
    try:
        yield
    except (ConversionError, MemoryError, *passed_on):
        raise
    except Exception as error:  # libraries raise many types on damaged files
        raise ConversionError(
            'it cannot be converted, for a reason that no check foresaw',
            'Leave it out, and report the text in brackets',
            getattr(error, 'filename', None) or path,
        ) from error


def encode_slice(
    item: LabelledSlice, study: Study, patient_id: str, settings: Settings, folder: Path
) -> dict:
    """COCO image entry and annotations of a slice; writes its PNG into `folder`."""
    height, width = item.image.shape
    source = item.source.relative_to(study.root).as_posix()
    _check_slice(item)
    entry = dict(file_name=source, width=width, height=height, patient_id=patient_id)
    if settings.pixels != 'none':
        name = f'{patient_id}_{item.name}.png'
        entry['file_name'] = f'{patient_id}/{name}'
        pixels, scale = to_png(item, settings.preprocessing(study))
        entry.update(scale)
        # Unlike cv2.imwrite, this fails on a full disk.
        (folder / name).write_bytes(cv2.imencode('.png', pixels)[1].tobytes())
    else:
        entry.update(
            {
                key: value
                for key, value in (
                    ('slice_index', item.slice_index),
                    ('frame_index', item.frame_index),
                )
                if value is not None
            }
        )
    if item.spacing_mm is not None:
        entry['spacing_mm'] = simplify_spacing(item.spacing_mm)
    for key in ('slice_spacing_mm', 'slice', 'phase', 'frame'):
        value = getattr(item, key)
        if value is not None:
            entry[key] = round(value, 6) if isinstance(value, float) else value
    if settings.patient_ids == 'folder':  # otherwise the path would give the patient away
        entry['source_file'] = source
    entry['source_sha256'] = item.sha256
    return dict(image=entry, annotations=encode_instances(item.masks, settings))


def _check_slice(item: LabelledSlice) -> None:
    """Refuse what no evaluation would take, whatever reader it comes from."""
    for name, mask in item.masks.items():
        if mask.shape != item.image.shape:
            raise ConversionError(
                f'its mask of {name} has shape {mask.shape}, but the image {item.image.shape}',
                'Pair it with the right image',
                item.source,
            )
    for length in (*(item.spacing_mm or ()), item.slice_spacing_mm):
        if length is not None and not 0 < length < math.inf:
            raise ConversionError(
                f'a distance of pixels or slices is {length} mm',
                'Correct the header, or leave the study out',
                item.source,
            )


def simplify_spacing(spacing_mm: tuple[float, float]) -> float | list[float]:
    """One number for square pixels, else [rows, columns]; in mm."""
    rows, columns = (round(float(value), 6) for value in spacing_mm)
    return rows if abs(rows - columns) <= ISOTROPY_TOLERANCE * rows else [rows, columns]


def to_png(item: LabelledSlice, preprocessing: Preprocessing) -> tuple[np.ndarray, dict]:
    """Pixels as uint8 or uint16 (H, W), and what is to be noted about their scale.

    Without a window, sixteen bits hold whole numbers from 0 to 65535 as they are; of other pixels,
    value = stored * `rescale_slope` + `rescale_intercept`.
    """
    image = item.image
    over = image if item.window_over is None else item.window_over
    if preprocessing.window is not None:
        return preprocessing.grey_levels(image, over, is_display=item.is_display), {}
    low, high = float(over.min()), float(over.max())
    if low >= 0 and high <= 65535 and np.array_equal(over, np.rint(over)):
        return image.astype(np.uint16), {}
    slope = (high - low) / 65535 or 1.0
    stored = np.rint((image.astype(np.float64) - low) / slope)
    return stored.astype(np.uint16), dict(rescale_slope=slope, rescale_intercept=low)


def encode_instances(masks: dict[str, np.ndarray], settings: Settings) -> list[dict]:
    """COCO annotations without ids; `category_id` counts the classes from 1."""
    annotations = []
    for name, mask in masks.items():
        parts = [mask]
        if settings.instances == 'component':
            count, components = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
            parts = [components == index for index in range(1, count)]
        for part in parts:
            rle = mask_utils.encode(np.asfortranarray(part, np.uint8))
            annotations.append(
                dict(
                    category_id=settings.labels.classes.index(name) + 1,
                    bbox=mask_utils.toBbox(rle).tolist(),
                    area=int(mask_utils.area(rle)),
                    iscrowd=0,
                    segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode('ascii')),
                )
            )
    return annotations
