"""Writes simulated patients as a data set in COCO format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from tqdm import tqdm

from swin_ext.conversion.phantom_anatomy import simulate_patient
from swin_ext.conversion.phantom_images import LV, MYO, RV, render_slice
from swin_ext.conversion.phantom_parameters import PhantomParameters

CATEGORIES = [dict(id=LV, name='LV'), dict(id=MYO, name='Myo'), dict(id=RV, name='RV')]
PHASES = ('ED', 'ES')
PARAMETERS_FILE = 'phantom.json'


def render_patient(
    index: int, parameters: PhantomParameters
) -> Iterator[tuple[dict, np.ndarray, np.ndarray]]:
    """All slices of one patient, at ED and then at ES, base first.

    A patient depends on the seed and its own index alone, so a larger data set begins with the
    patients of a smaller one. Slices are numbered at ED; at ES, when the base has moved towards
    the apex, the planes left above it are not part of the stack.

    Yields:
        COCO image entry without its id; image and labels as in :func:`render_slice`.
    """
    rng = np.random.default_rng(np.random.SeedSequence(parameters.seed, spawn_key=(index,)))
    patient = simulate_patient(rng)
    for phase in PHASES:
        for number, z in enumerate(patient.planes(parameters.slice_gap_mm)):
            if patient.lv_shape(z, phase)[0] > 1:
                continue
            image, labels = render_slice(
                patient, z, phase, parameters.size, parameters.spacing_mm, rng
            )
            patient_id = f'patient{index:04d}'
            yield (
                dict(
                    file_name=f'{patient_id}_{phase}_slice{number:02d}.png',
                    width=parameters.size,
                    height=parameters.size,
                    patient_id=patient_id,
                    slice=number,
                    phase=phase,
                    spacing_mm=parameters.spacing_mm,
                    slice_spacing_mm=parameters.slice_gap_mm,
                ),
                image,
                labels,
            )


def encode_instances(labels: np.ndarray) -> list[dict]:
    """COCO annotations of a label map, without ids: one instance per category present."""
    annotations = []
    for category in CATEGORIES:
        mask = labels == category['id']
        if mask.any():
            rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
            annotations.append(
                dict(
                    category_id=category['id'],
                    bbox=mask_utils.toBbox(rle).tolist(),
                    area=int(mask_utils.area(rle)),
                    iscrowd=0,
                    segmentation=dict(size=list(rle['size']), counts=rle['counts'].decode('ascii')),
                )
            )
    return annotations


def write_dataset(folder: Path, parameters: PhantomParameters) -> dict[str, int]:
    """Render all patients into ``folder``; the last patients are the held-out ones.

    Returns:
        Number of images per split.
    """
    (folder / 'images').mkdir()
    num_train = parameters.patients - parameters.num_val()
    num_images = {}
    with tqdm(total=parameters.patients, desc='simulated patients', unit='patient') as progress:
        for split, indices in (
            ('train', range(num_train)),
            ('val', range(num_train, parameters.patients)),
        ):
            images, annotations = [], []
            for index in indices:
                for entry, image, labels in render_patient(index, parameters):
                    path = folder / 'images' / entry['file_name']
                    if not cv2.imwrite(str(path), image):
                        raise OSError(f'could not write {path}')
                    images.append(dict(id=len(images) + 1, **entry))
                    for annotation in encode_instances(labels):
                        annotations.append(
                            dict(id=len(annotations) + 1, image_id=images[-1]['id'], **annotation)
                        )
                progress.update()
            coco = dict(
                info=dict(description='Simulated short-axis cardiac MR', **asdict(parameters)),
                categories=CATEGORIES,
                images=images,
                annotations=annotations,
            )
            (folder / f'{split}.json').write_text(json.dumps(coco) + '\n')
            num_images[split] = len(images)
    (folder / PARAMETERS_FILE).write_text(json.dumps(asdict(parameters), indent=2) + '\n')
    return num_images


def holds_dataset(out: Path, parameters: PhantomParameters, overwrite: bool) -> bool:
    """Whether ``out`` already is the data set made with ``parameters``.

    Raises:
        FileExistsError: ``out`` holds something which must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    marker = out / PARAMETERS_FILE
    if not marker.is_file():
        raise FileExistsError(
            f'{out} exists and has no {PARAMETERS_FILE}, so it is no phantom '
            'data set and is never replaced: choose another --out'
        )
    try:
        found = json.loads(marker.read_text())
    except json.JSONDecodeError:
        found = None
    if found == asdict(parameters):
        return True
    if not overwrite:
        raise FileExistsError(
            f'{out} holds a phantom data set made with other parameters '
            f'({marker}): choose another --out, or replace it with --overwrite'
        )
    return False


def replace_folder(out: Path, parameters: PhantomParameters) -> dict[str, int]:
    """Write the data set beside ``out`` and move it there once it is whole.

    Returns:
        Number of images per split.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as scratch:
        new, old = Path(scratch, 'new'), Path(scratch, 'old')
        new.mkdir()
        num_images = write_dataset(new, parameters)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    return num_images
