"""Write one study: its PNG files and a JSON-lines file with its COCO entries."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study
from swin_ext.images.reading import window_percentile

PIXELS = ('png8', 'png16', 'none')
INSTANCES = ('class', 'component')
# Row and column spacing that differ by less than this fraction are one number in the JSON.
ISOTROPY_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Settings:
    """What the entries and pixels of every study depend on.

    Args:
        pixels: 'png8' writes 8-bit PNG by a percentile window, 'png16' 16-bit PNG of the values
            themselves, 'none' leaves the pixels in the source files.
        window: Lower and upper percentile of 'png8'.
        instances: 'class' for one instance per class and slice, 'component' for one per
            8-connected component.
        patient_ids: 'pseudonym' or 'folder', see `convert.name_patients`.
        keep_empty: Keep slices without a labelled pixel.
    """

    labels: LabelMap
    pixels: str = 'png8'
    window: tuple[float, float] = (0.5, 99.5)
    instances: str = 'class'
    patient_ids: str = 'pseudonym'
    keep_empty: bool = False


def study_file(out: Path, patient_id: str) -> Path:
    return out / 'studies' / f'{patient_id}.jsonl'


def write_study(
    study: Study, patient_id: str, out: Path, settings: Settings, fingerprint: str
) -> None:
    """Convert one study into `out/images/PATIENT_ID/*.png` and `out/studies/PATIENT_ID.jsonl`.

    Everything is written aside and moved into place at the end, the JSON-lines file last, so that
    a study with this file is whole. Its first line is about the study, every other line holds one
    image with its annotations, without ids.

    Raises:
        ConversionError: If the study cannot be read.
        OSError: If it cannot be written; nothing of it is left behind.
    """
    aside = out / '.partial' / patient_id
    shutil.rmtree(aside, ignore_errors=True)
    (aside / 'images').mkdir(parents=True)
    try:
        left_out, names = Counter(), set()
        with open(aside / 'slices.jsonl', 'w', encoding='utf-8') as lines:
            for item in study.read(settings.labels, left_out):
                if not item.masks and not settings.keep_empty:
                    left_out['slices without a label'] += 1
                    continue
                if item.name in names:
                    raise ConversionError(
                        'two volumes of the study yield slices of the same name',
                        'Give the patterns a field {phase} or {frame}',
                        item.source,
                    )
                names.add(item.name)
                lines.write(
                    json.dumps(encode_slice(item, study, patient_id, settings, aside / 'images'))
                    + '\n'
                )
        if not names:
            counts = ', '.join(f'{key}: {count}' for key, count in left_out.items())
            raise ConversionError(
                'nothing of it can be converted' + f' ({counts})' * bool(counts),
                'Check its labels, or leave it out',
                study.root / study.patient,
            )
        with open(aside / 'study.jsonl', 'w', encoding='utf-8') as joined:
            joined.write(
                json.dumps(dict(patient_id=patient_id, fingerprint=fingerprint, left_out=left_out))
                + '\n'
            )
            with open(aside / 'slices.jsonl', encoding='utf-8') as lines:
                shutil.copyfileobj(lines, joined)
        images = out / 'images' / patient_id
        if images.exists():  # of a study that changed since, or was interrupted just here
            shutil.rmtree(images)
        if settings.pixels != 'none':
            images.parent.mkdir(exist_ok=True)
            (aside / 'images').rename(images)
        study_file(out, patient_id).parent.mkdir(exist_ok=True)
        os.replace(aside / 'study.jsonl', study_file(out, patient_id))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def encode_slice(
    item: LabelledSlice, study: Study, patient_id: str, settings: Settings, folder: Path
) -> dict:
    """COCO image entry and annotations of a slice; writes its PNG into `folder`."""
    height, width = item.image.shape
    source = item.source.relative_to(study.root).as_posix()
    entry = dict(file_name=source, width=width, height=height, patient_id=patient_id)
    if settings.pixels != 'none':
        name = f'{patient_id}_{item.name}.png'
        entry['file_name'] = f'{patient_id}/{name}'
        pixels, scale = to_png(item, settings)
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


def simplify_spacing(spacing_mm: tuple[float, float]) -> float | list[float]:
    """One number for square pixels, else [rows, columns]; in mm."""
    rows, columns = (round(float(value), 6) for value in spacing_mm)
    return rows if abs(rows - columns) <= ISOTROPY_TOLERANCE * rows else [rows, columns]


def to_png(item: LabelledSlice, settings: Settings) -> tuple[np.ndarray, dict]:
    """Pixels as uint8 or uint16 (H, W), and what is to be noted about their scale.

    8-bit PNG sources keep their values. Sixteen bits hold whole numbers from 0 to 65535 as they
    are; of other pixels, value = stored * `rescale_slope` + `rescale_intercept`.
    """
    image = item.image
    if settings.pixels == 'png8':
        if item.source.suffix.lower() == '.png' and image.max() <= 255:
            return image.astype(np.uint8), {}
        over = image if item.window_over is None else item.window_over
        lower, upper = settings.window
        return (window_percentile(image, lower, upper, over) * 255).astype(np.uint8), {}
    over = image if item.window_over is None else item.window_over
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
