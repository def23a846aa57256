"""Ground truth and predictions for FiftyOne: as a folder that needs no database, and in one."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing, replacing_text
from swin_ext.utils.optional import import_optional
from swin_ext.visualization.show_results import (
    best_predictions,
    dice_by_category,
    load_ground_truth,
    load_image,
    load_predictions,
    true_masks,
)


class FiftyOneError(UserError, RuntimeError):
    """FiftyOne cannot do what was asked of it."""


@dataclass(frozen=True)
class Instance:
    """A structure on an image, as FiftyOne has it.

    Args:
        label: Name of the class.
        box: Left, top, width and height, by the size of the image.
        mask: bool, of the pixels of the box.
        score: None in the ground truth.
    """

    label: str
    box: tuple[float, float, float, float]
    mask: np.ndarray
    score: float | None = None


@dataclass(frozen=True)
class Sample:
    """An image with what is true and what was predicted.

    Args:
        image_id: In the annotation file.
        path: Its PNG file.
        truth: Instances of the ground truth.
        predictions: Instances of any score.
        dice: By name of the classes that the image has, or is said to have.
        mean_dice: Of these; NaN without any.
        mask_ap: mAP of the masks on this image alone, by pycocotools; NaN without ground truth.
    """

    image_id: int
    path: Path
    truth: tuple[Instance, ...]
    predictions: tuple[Instance, ...]
    dice: dict[str, float]
    mean_dice: float
    mask_ap: float


def export(ann: Path, img_prefix: Path, pred: Path, out: Path, score_thr: float) -> list[Sample]:
    """Write the folder, of FiftyOne's layout `COCODetectionDataset`.

    `data/` has the images as PNG, whatever they were; `labels.json` the ground truth,
    `predictions.json` COCO results, and `samples.csv` what is known of each image.

    Raises:
        FileNotFoundError: If a file is missing.
        ResultsError: If a file is not what it should be, or two do not belong together.
    """
    coco = load_ground_truth(ann)
    by_image = load_predictions(pred, coco)
    names = {image_id: f'{image_id}.png' for image_id in coco.imgs}
    samples = list(_samples(coco, by_image, out / 'data', names, score_thr))
    for sample in samples:
        encoded = cv2.imencode('.png', load_image(coco, sample.image_id, img_prefix))[1]
        with replacing(sample.path) as file:
            file.write(encoded.tobytes())
    content = json.loads(ann.read_text())  # COCOeval writes into what `coco` holds
    for image in content['images']:
        image['file_name'] = names[image['id']]
    results = [prediction for image_id in by_image for prediction in by_image[image_id]]
    for name, value in (('labels.json', content), ('predictions.json', results)):
        with replacing_text(out / name) as file:
            json.dump(value, file)
    classes = [category['name'] for category in coco.cats.values()]
    with replacing_text(out / 'samples.csv') as file:
        writer = csv.writer(file)
        writer.writerow(
            ['image_id', 'file_name', 'mask_mAP', 'mean_dice', *(f'{c}_dice' for c in classes)]
        )
        for sample in samples:
            figures = [sample.mask_ap, sample.mean_dice, *map(sample.dice.get, classes)]
            writer.writerow(
                [sample.image_id, coco.imgs[sample.image_id]['file_name']]
                + ['' if v is None or math.isnan(v) else f'{v:.6g}' for v in figures]
            )
    return samples


def _samples(
    coco: COCO,
    by_image: dict[int, list[dict]],
    folder: Path,
    names: dict[int, str],
    score_thr: float,
) -> Iterator[Sample]:
    precision = image_precision(coco, by_image)
    for image_id, image in coco.imgs.items():
        size = image['height'], image['width']
        best = best_predictions(by_image[image_id], score_thr)
        dice = dice_by_category(true_masks(coco, image_id), best)
        values = list(dice.values())
        truth = coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=False))
        yield Sample(
            image_id,
            folder / names[image_id],
            tuple(_instance(coco, a, coco.annToMask(a), size) for a in truth),
            tuple(
                _instance(coco, p, mask_utils.decode(p['segmentation']), size)
                for p in by_image[image_id]
            ),
            {coco.cats[category]['name']: value for category, value in sorted(dice.items())},
            sum(values) / len(values) if values else math.nan,
            precision[image_id],
        )


def _instance(coco: COCO, entry: dict, mask: np.ndarray, size: tuple[int, int]) -> Instance:
    """The box is that of the mask's own pixels, which FiftyOne spreads the mask over."""
    mask = mask.astype(bool)
    if mask.any():
        top, bottom = np.flatnonzero(mask.any(1))[[0, -1]]
        left, right = np.flatnonzero(mask.any(0))[[0, -1]]
    else:
        top = bottom = left = right = 0
    height, width = size
    box = (left / width, top / height, (right - left + 1) / width, (bottom - top + 1) / height)
    return Instance(
        coco.cats[entry['category_id']]['name'],
        tuple(map(float, box)),
        mask[top : bottom + 1, left : right + 1],
        entry.get('score'),
    )


def image_precision(coco: COCO, by_image: dict[int, list[dict]]) -> dict[int, float]:
    """COCO's mask mAP of each image alone; NaN where it has no ground truth."""
    results = [prediction for predictions in by_image.values() for prediction in predictions]
    precision = dict.fromkeys(coco.imgs, math.nan)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        found = coco.loadRes([dict(result) for result in results]) if results else COCO()
        if not results:
            found.dataset = dict(images=[], annotations=[], categories=[])
            found.createIndex()
        for image_id in coco.imgs:
            if not coco.getAnnIds(imgIds=[image_id], iscrowd=False):
                continue
            evaluation = COCOeval(coco, found, 'segm')
            evaluation.params.imgIds = [image_id]
            evaluation.params.areaRng = evaluation.params.areaRng[:1]
            evaluation.params.areaRngLbl = ['all']
            evaluation.params.maxDets = [100]
            evaluation.evaluate()
            evaluation.accumulate()
            values = evaluation.eval['precision']
            precision[image_id] = float(values[values > -1].mean())
    return precision


def as_fiftyone(sample: Sample, fiftyone: ModuleType):
    """The sample as `fiftyone.Sample`, with `ground_truth`, `predictions` and figures."""

    def detections(instances):
        return fiftyone.Detections(
            detections=[
                fiftyone.Detection(
                    label=instance.label,
                    bounding_box=list(instance.box),
                    mask=instance.mask,
                    confidence=instance.score,
                )
                for instance in instances
            ]
        )

    figures = dict(mask_mAP=sample.mask_ap, mean_dice=sample.mean_dice)
    figures.update({f'{name}_dice': value for name, value in sample.dice.items()})
    return fiftyone.Sample(
        filepath=str(sample.path.resolve()),
        image_id=sample.image_id,
        ground_truth=detections(sample.truth),
        predictions=detections(sample.predictions),
        **{name: value for name, value in figures.items() if not math.isnan(value)},
    )


def store(samples: list[Sample], name: str) -> None:
    """Write a data set into FiftyOne's database; it stays there.

    Raises:
        MissingPackageError: If fiftyone is not installed.
        FiftyOneError: If there is such a data set, or no database.
    """
    fiftyone = import_optional('fiftyone', 'Viewing in FiftyOne')
    from fiftyone.core.config import FiftyOneConfigError

    try:
        if fiftyone.dataset_exists(name):
            raise FiftyOneError(
                f'FiftyOne has a data set {name!r}: choose another name, or delete it with '
                f'fiftyone.delete_dataset({name!r}).'
            )
        dataset = fiftyone.Dataset(name, persistent=True)
        dataset.add_samples([as_fiftyone(sample, fiftyone) for sample in samples])
    except FiftyOneConfigError as error:
        raise FiftyOneError(
            f'FiftyOne has no database: {error}. Set FIFTYONE_DATABASE_URI to that of a MongoDB '
            "server (mongodb://host), or load the folder with fiftyone's COCODetectionDataset."
        ) from error


def view(
    ann: Path, img_prefix: Path, pred: Path, out: Path, score_thr: float, dataset: str | None
) -> str:
    """Do what `tools/view_fiftyone.py` was asked for; return what to do next."""
    samples = export(ann, img_prefix, pred, out, score_thr)
    if dataset is None:
        return f'wrote {len(samples)} images to {out}'
    store(samples, dataset)
    return (
        f'wrote {len(samples)} images to {out} and to the data set {dataset}; look at it with\n'
        f'    fiftyone app launch {dataset}'
    )
