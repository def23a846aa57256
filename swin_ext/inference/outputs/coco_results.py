"""Instances in the COCO format, with the grey levels they were found in as PNG files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from swin_ext.images.preprocessing import Preprocessing
from swin_ext.inference.segmentation import FoundInstance
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.utils.files import replacing_text

DATASET_FILE, RESULTS_FILE, IMAGE_FOLDER = 'coco.json', 'coco_results.json', 'images'


def write_coco(
    study: SegmentedStudy,
    slice_numbers: tuple[int, ...],
    instances: list[FoundInstance],
    preprocessing: Preprocessing,
    folder: Path,
) -> None:
    """Write `coco.json`, `coco_results.json` and `images/*.png`.

    `coco.json` is a data set, images with the instances as annotations, for `CMRDataset` and
    `pycocotools.coco.COCO`; `coco_results.json` the same instances as `COCO.loadRes` reads them.
    Masks are those of the model, before overlaps were decided. Category ids count from 1.

    Raises:
        OSError: If it cannot be written.
    """
    _, _, height, width = study.images.shape
    images, id_of = [], {}
    (folder / IMAGE_FOLDER).mkdir()
    rows, columns = study.pixel_spacing_mm
    for place in zip(*(axis.tolist() for axis in np.nonzero(study.present))):
        phase, index = place
        name = f'phase{phase:03d}_slice{slice_numbers[index]:03d}.png'
        # Unlike cv2.imwrite, this fails on a full disk.
        (folder / IMAGE_FOLDER / name).write_bytes(cv2.imencode('.png', study.images[place])[1])
        id_of[place] = len(images) + 1
        images.append(
            dict(
                id=id_of[place],
                file_name=f'{IMAGE_FOLDER}/{name}',
                width=width,
                height=height,
                patient_id=study.name,
                slice=slice_numbers[index],
                frame=phase,
                spacing_mm=[rows, columns],
                slice_spacing_mm=study.slice_spacing_mm,
            )
        )
    # Without boxes, as `loadRes` would take the area from these, and not from the masks.
    results = [
        dict(
            image_id=id_of[item.phase, item.slice],
            category_id=item.label + 1,
            score=round(item.score, 6),
            segmentation=dict(size=list(item.rle['size']), counts=item.rle['counts'].decode()),
        )
        for item in instances
    ]
    annotations = [
        dict(
            id=number,
            iscrowd=0,
            area=int(mask_utils.area(item.rle)),
            bbox=mask_utils.toBbox(item.rle).tolist(),
            **result,
        )
        for number, (item, result) in enumerate(zip(instances, results), 1)
    ]
    dataset = dict(
        # The PNG files are windowed and rounded, whatever the model does next with them.
        info=dict(
            preprocessing=replace(preprocessing, channels='repeat', rounding='nearest').to_dict()
        ),
        categories=[dict(id=number, name=name) for number, name in enumerate(study.classes, 1)],
        images=images,
        annotations=annotations,
    )
    for name, content in ((DATASET_FILE, dataset), (RESULTS_FILE, results)):
        with replacing_text(folder / name) as file:
            json.dump(content, file, allow_nan=False)
