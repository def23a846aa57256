"""Figures of a test for any choice of its patients: of all, of one, or of some drawn repeatedly."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_ext.coco.reading import read_coco
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.folds import unit_of_images
from swin_ext.experiments.run_configs import PREDICTIONS

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # of an image and class, as for COCO's mAP


@dataclass
class Detections:
    """All detections of a class, best first, and what there is to find.

    Attributes:
        unit: (N,) index of the patient.
        scores: (N,).
        hit: (IoUs, N) whether it matches an annotation.
        counts: (IoUs, N) False where it matches what is no object of its own (a crowd).
        objects: (patients,) number of annotations.
    """

    unit: np.ndarray
    scores: np.ndarray
    hit: np.ndarray
    counts: np.ndarray
    objects: np.ndarray

    def average_precision(self, weights: np.ndarray, ious: slice) -> np.ndarray:
        """COCO's AP with each patient as often as `weights` (replicates, patients) says.

        Returns:
            (replicates,), the mean over the chosen IoU thresholds; NaN where nothing is to find.
        """
        result = np.full(len(weights), np.nan)
        for place, weight in enumerate(weights):
            total = weight @ self.objects
            if total:
                of_detection = weight[self.unit]
                values = [
                    _average_precision(of_detection * hit, of_detection * (counts & ~hit), total)
                    for hit, counts in zip(self.hit[ious], self.counts[ious])
                ]
                result[place] = np.mean(values)
        return result


@dataclass
class Slices:
    """Rows of `cmr_slices.csv` of a class: (N,) index of the patient, and its figures."""

    unit: np.ndarray
    values: dict[str, np.ndarray]

    def mean(self, name: str, weights: np.ndarray) -> np.ndarray:
        """(replicates,) mean over slices where it is defined."""
        values = self.values[name]
        defined = np.isfinite(values)
        of_slice = weights[:, self.unit[defined]]
        with np.errstate(invalid='ignore'):
            return of_slice @ values[defined] / of_slice.sum(1)


class TestFigures:
    """What one trained model, or those of all folds of one seed, reached on which patients.

    Args:
        tests: Folders of tests, with the annotation file of each.
        by: 'patient' or 'image'.

    Attributes:
        units: Patients (or images) of all tests, sorted.
        classes: Names in the order of the tests.
        distance: Key of HD95 in the tables, 'hd95_mm' or 'hd95_px'.

    Raises:
        ExperimentError: If a test has not left what is needed, or a patient is unknown.
    """

    __test__ = False  # no test of pytest

    def __init__(self, tests: Sequence[tuple[Path, Path]], by: str) -> None:
        truths = [read_coco(annotations, text_ids=True) for _, annotations in tests]
        units_of = [
            unit_of_images(truth['images'], by, str(annotations))
            for truth, (_, annotations) in zip(truths, tests)
        ]
        self.units = sorted({unit for units in units_of for unit in units.values()})
        index = {unit: number for number, unit in enumerate(self.units)}
        self.distance = 'hd95_mm'
        rows = defaultdict(list)
        parts = defaultdict(list)
        places = [{id_: index[unit] for id_, unit in units.items()} for units in units_of]
        for (folder, _), place_of in zip(tests, places):
            self._read_slices(folder, place_of, rows)
        self.classes = tuple(rows)
        for (folder, _), truth, place_of in zip(tests, truths, places):
            for name, part in _match(truth, folder, self.classes, place_of, len(index)).items():
                parts[name].append(part)
        self._slices = {
            name: Slices(
                np.array([unit for unit, _ in rows[name]], int),
                {
                    key: np.array([values[key] for _, values in rows[name]], float)
                    for key in ('dice', 'hd95')
                },
            )
            for name in self.classes
        }
        self._detections = {name: _joined(parts[name]) for name in self.classes}

    def figure(self, name: str, weights: np.ndarray | None = None) -> np.ndarray:
        """A figure by weights (replicates, patients); by default of all patients once.

        Args:
            name: 'mAP', 'AP50' (of masks), 'Dice' or 'HD95', means over the classes where they are
                defined; 'Dice LV' for a class.
        """
        weights = np.ones((1, len(self.units))) if weights is None else weights
        name, _, chosen = name.partition(' ')
        of_class = [
            self._detections[each].average_precision(
                weights, slice(None) if name == 'mAP' else slice(0, 1)
            )
            if name in ('mAP', 'AP50')
            else self._slices[each].mean(name.lower(), weights)
            for each in ([chosen] if chosen else self.classes)
        ]
        return mean_of_finite(np.stack(of_class))

    def by_unit(self, name: str) -> np.ndarray:
        """A figure of each patient alone."""
        return self.figure(name, np.eye(len(self.units)))

    def _read_slices(self, folder: Path, place_of: dict, rows: dict) -> None:
        path = folder / 'cmr_slices.csv'
        if not path.is_file():
            raise ExperimentError(f'{path} is missing: the test has no CMRMetric.')
        text_of = {str(id_): place for id_, place in place_of.items()}
        with open(path, newline='', encoding='utf-8') as file:
            reader = csv.DictReader(file)
            self.distance = 'hd95_mm' if 'hd95_mm' in (reader.fieldnames or ()) else 'hd95_px'
            for row in reader:
                values = dict(dice=row['dice'], hd95=row[self.distance])
                rows[row['class']].append(
                    (text_of[row['image_id']], {k: float(v or 'nan') for k, v in values.items()})
                )


def mean_of_finite(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is no NaN; NaN where nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(defined, values, 0).sum(0) / defined.sum(0)


def _average_precision(hits: np.ndarray, misses: np.ndarray, total: float) -> float:
    """COCO's interpolation at 101 recalls, of weights of hits and misses, best first."""
    hits, misses = np.cumsum(hits), np.cumsum(misses)
    with np.errstate(invalid='ignore'):
        precision = np.nan_to_num(hits / (hits + misses))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(hits / total, RECALLS, side='left')
    return float(np.append(precision, 0)[places].mean())


def _match(
    truth: dict, folder: Path, classes: Sequence[str], place_of: dict, num_units: int
) -> dict[str, Detections]:
    """Detections of each class, matched by pycocotools with the annotations."""
    path = folder / f'{PREDICTIONS}.segm.json'
    if not path.is_file():
        raise ExperimentError(f'{path} is missing: the test has no FastCocoMetric of masks.')
    number_of = {image['id']: number for number, image in enumerate(truth['images'], 1)}
    unit_of = np.array([place_of[image['id']] for image in truth['images']])
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
        ground_truth = COCO()
        # Of id 0, pycocotools thinks that it is no match.
        ground_truth.dataset = dict(
            images=[dict(image, id=number_of[image['id']]) for image in truth['images']],
            categories=truth['categories'],
            annotations=[
                dict(annotation, id=number, image_id=number_of[annotation['image_id']])
                for number, annotation in enumerate(truth['annotations'], 1)
            ],
        )
        ground_truth.createIndex()
        predicted = [
            dict(entry, image_id=number_of[entry['image_id']])
            for entry in json.loads(path.read_text())
        ]
        found = ground_truth.loadRes(predicted) if predicted else COCO()
        evaluation = COCOeval(ground_truth, found, 'segm')
        ids = {category['name']: category['id'] for category in truth['categories']}
        evaluation.params.catIds = [ids[name] for name in classes]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = evaluation.params.areaRngLbl[:1]
        evaluation.params.maxDets = [MAX_DETECTIONS]
        evaluation.params.iouThrs = IOUS
        if predicted:
            evaluation.evaluate()
    entries = defaultdict(list)
    for entry in getattr(evaluation, 'evalImgs', None) or ():
        if entry is not None:
            entries[entry['category_id']].append(entry)
    result = {}
    for name in classes:
        objects = np.zeros(num_units)
        for annotation in ground_truth.dataset['annotations']:
            if annotation['category_id'] == ids[name] and not annotation.get('iscrowd'):
                objects[unit_of[annotation['image_id'] - 1]] += 1
        result[name] = _detections(entries[ids[name]], unit_of, objects)
    return result


def _detections(entries: list[dict], unit_of: np.ndarray, objects: np.ndarray) -> Detections:
    empty = np.zeros((len(IOUS), 0), bool)
    scores = np.concatenate([[], *(entry['dtScores'] for entry in entries)])
    units = [np.full(len(e['dtScores']), unit_of[e['image_id'] - 1]) for e in entries]
    hit = np.concatenate([empty, *(e['dtMatches'].reshape(len(IOUS), -1) > 0 for e in entries)], 1)
    ignored = np.concatenate(
        [empty, *(e['dtIgnore'].reshape(len(IOUS), -1).astype(bool) for e in entries)], 1
    )
    order = np.argsort(-scores, kind='mergesort')  # as COCOeval
    return Detections(
        np.concatenate([np.zeros(0, int), *units])[order],
        scores[order],
        (hit & ~ignored)[:, order],
        ~ignored[:, order],
        objects,
    )


def _joined(parts: list[Detections]) -> Detections:
    """Those of several tests as of one: all detections by their score."""
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind='mergesort')
    return Detections(
        np.concatenate([part.unit for part in parts])[order],
        scores[order],
        np.concatenate([part.hit for part in parts], 1)[:, order],
        np.concatenate([part.counts for part in parts], 1)[:, order],
        sum(part.objects for part in parts),
    )
