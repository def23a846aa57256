"""Predicted and true masks compared: slice by slice, patient by patient, in clinical indices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pycocotools.mask
from mmengine.logging import print_log
from tqdm import tqdm

from swin_ext.evaluation.clinical import clinical_indices, compare_masks, volume_ml
from swin_ext.evaluation.cmr_ground_truth import CMRGroundTruth, CMRImage, Stack

# A structure that is found in fewer of its slices says little of the volume.
FOUND_FRACTION = 0.5


@dataclass
class CMRReport:
    """All cases of one evaluation.

    Attributes:
        unit: Of distances per slice, 'mm' or 'px'.
        slices: Of each image and class, its scores.
        stacks: Of each patient, phase and class, its scores in 3-D and its volumes in ml.
        indices: Of each patient, predicted and reference values by name of the index.
        findings: What to look at before a patient's figures are believed, by patient; doubts of the
            conversion and gaps between slices among it.
    """

    unit: str
    slices: list[dict] = field(default_factory=list)
    stacks: list[dict] = field(default_factory=list)
    indices: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)


def compare(
    truth: CMRGroundTruth,
    rles: dict[int | str, list[dict | None]],
    classes: Sequence[str],
    roles: dict[str, str],
) -> CMRReport:
    """Compare the predictions of images with the ground truth, and warn of what is doubtful.

    Args:
        rles: Of each image, the RLE of each class; None where it is not predicted.
        roles: 'lv', 'myo' or 'rv' by class.
    """
    report = CMRReport(truth.unit)
    masks = {}  # predicted and true (classes, H, W) of the images that belong to a stack
    in_stack = {image.id for stack in truth.stacks for image in stack.images}
    for image_id in tqdm(rles, 'Comparing slices', delay=10):
        image = truth.images[image_id]
        pair = decode(rles[image_id], image), truth.masks(image)
        report.slices += compare_slice(image, *pair, classes)
        if image_id in in_stack:
            masks[image_id] = tuple(np.packbits(mask) for mask in pair)
    incomplete = []
    for stack in tqdm(truth.stacks, 'Comparing stacks', delay=10):
        images = tuple(image for image in stack.images if image.id in masks)
        if len(images) < len(stack.images):
            incomplete.append(stack.describe())
        if images:
            shape = (len(classes), images[0].height, images[0].width)
            pair = (
                np.stack([unpack(masks[image.id][which], shape) for image in images], axis=1)
                for which in (0, 1)
            )
            seen = Stack(stack.patient, stack.phase, images)
            report.stacks += compare_stack(seen, *pair, classes)
    if incomplete:
        print_log(
            f'CMRMetric: of {len(incomplete)} stacks only some slices were evaluated, '
            'and only these make up their volumes, predicted and true: '
            f'{", ".join(incomplete[:5])}{" ..." if len(incomplete) > 5 else ""}.',
            'current',
            30,
        )
    report.indices = compute_indices(report.stacks, roles)
    report.findings = find_doubts(report, truth.doubts)
    for patient, texts in report.findings.items():
        print_log(f'CMRMetric: patient {patient}: {"; ".join(texts)}.', 'current', 30)
    return report


def compare_slice(
    image: CMRImage, pred: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> list[dict]:
    """Rows of `CMRReport.slices`, from boolean masks (classes, H, W)."""
    return [
        {
            'image_id': image.id,
            'file_name': image.file_name,
            'patient_id': image.patient,
            'phase': image.phase,
            'slice': image.slice,
            'class': name,
            'predicted': bool(pred[label].any()),
            'annotated': bool(truth[label].any()),
            **compare_masks(pred[label], truth[label], image.spacing or (1, 1)),
        }
        for label, name in enumerate(classes)
    ]


def compare_stack(
    stack: Stack, pred: np.ndarray, truth: np.ndarray, classes: Sequence[str]
) -> list[dict]:
    """Rows of `CMRReport.stacks`, from boolean masks (classes, D, H, W)."""
    spacing, rows = stack.spacing, []
    for label, name in enumerate(classes):
        row = {
            'patient_id': stack.patient,
            'phase': stack.phase,
            'class': name,
            'slices_predicted': int(pred[label].any((1, 2)).sum()),
            'slices_annotated': int(truth[label].any((1, 2)).sum()),
            **compare_masks(
                pred[label], truth[label], spacing or (1, 1, 1), distances=spacing is not None
            ),
        }
        if spacing is not None:
            row['volume_ml'] = volume_ml(pred[label], spacing)
            row['volume_ml_reference'] = volume_ml(truth[label], spacing)
        rows.append(row)
    return rows


def compute_indices(
    stacks: list[dict], roles: dict[str, str]
) -> dict[str, dict[str, tuple[float, float]]]:
    """See `CMRReport.indices`."""
    volumes = defaultdict(lambda: (defaultdict(dict), defaultdict(dict)))
    for row in stacks:
        if 'volume_ml' in row and row['class'] in roles:
            pred, reference = volumes[row['patient_id']]
            pred[roles[row['class']]][row['phase']] = row['volume_ml']
            reference[roles[row['class']]][row['phase']] = row['volume_ml_reference']
    indices = {}
    for patient, pair in volumes.items():
        pred, reference = map(clinical_indices, pair)
        indices[patient] = {name: (pred[name], reference[name]) for name in pred}
    return indices


def find_doubts(report: CMRReport, doubts: dict[str, list[str]]) -> dict[str, list[str]]:
    """See `CMRReport.findings`; `doubts` are those of the ground truth by patient."""
    findings = defaultdict(list)
    for row in report.stacks:
        if row['patient_id'] not in findings:
            findings[row['patient_id']] += doubts.get(row['patient_id'], ())
        predicted, annotated = row['slices_predicted'], row['slices_annotated']
        if predicted < FOUND_FRACTION * annotated:
            where = f' at {row["phase"]}' if row['phase'] else ''
            findings[row['patient_id']].append(
                f'{row["class"]}{where} was found in {predicted} slices, but {annotated} are '
                'annotated'
            )
    for patient, indices in report.indices.items():
        for index, pair in indices.items():
            if not index.endswith('_EF'):
                continue
            for source, value in zip(('predicted', 'reference'), pair):
                if math.isnan(value):
                    findings[patient].append(
                        f'{source} {index.replace("_", " ")} is undefined: no volume at ED or ES'
                    )
                elif value < 0:
                    findings[patient].append(
                        f'{source} {index.replace("_", " ")} is {value:.0f} %: ED is smaller than '
                        'ES, which may have been exchanged'
                    )
    return {patient: texts for patient, texts in findings.items() if texts}


def decode(rles: list[dict | None], image: CMRImage) -> np.ndarray:
    """Boolean masks (classes, H, W)."""
    masks = np.zeros((len(rles), image.height, image.width), bool)
    for mask, rle in zip(masks, rles):
        if rle is not None:
            mask[:] = pycocotools.mask.decode(rle)
    return masks


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
