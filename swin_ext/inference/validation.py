"""Whether findings point at what is wrong, and whether corrections help: on COCO results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swin_ext.coco.masks import overlap
from swin_ext.evaluation.clinical import compare_masks, mean_of_defined
from swin_ext.evaluation.cmr_ground_truth import CMRGroundTruth
from swin_ext.inference.consistency import CORRECTIONS
from swin_ext.inference.findings import count_by_frame, find
from swin_ext.inference.segmented_study import ModelIdentity, SegmentedStudy
from swin_ext.utils.errors import UserError
from swin_ext.visualization.show_results import (
    best_predictions,
    load_ground_truth,
    load_predictions,
)

WORST_SHARE = 0.1


class ValidationError(UserError, ValueError):
    """Results that nothing can be learnt from."""


class Case(NamedTuple):
    """A patient of a test set.

    Args:
        study: As predicted; it has the phases of the annotation file, in their order by name.
        truth: uint8 (T, S, H, W), as `study.labels`.
    """

    study: SegmentedStudy
    truth: np.ndarray


def read_cases(ann_file: Path, pred_file: Path, score_thr: float) -> Iterator[Case]:
    """Patients of an annotation file that `tools/cmr2coco.py` wrote, with what was predicted.

    Where masks overlap, the class of the higher score has the pixel; in the truth, the earlier one.

    Raises:
        ResultsError: If the files do not belong together.
        ValidationError: If images lack `patient_id`, `slice`, `spacing_mm` or `slice_spacing_mm`.
    """
    coco = load_ground_truth(ann_file)
    predictions = load_predictions(pred_file, coco)
    categories = sorted(coco.cats)
    classes = tuple(coco.cats[category]['name'] for category in categories)
    ground_truth = CMRGroundTruth(str(ann_file), classes)
    by_patient = defaultdict(list)
    for stack in ground_truth.stacks:
        if stack.spacing is not None:
            by_patient[stack.patient].append(stack)
    if not by_patient:
        raise ValidationError(
            f'{ann_file}: no image has patient_id, slice, spacing_mm and slice_spacing_mm, without '
            'which there are no stacks. Convert the data with tools/cmr2coco.py.'
        )
    for patient, stacks in by_patient.items():
        stacks = sorted(stacks, key=lambda stack: str(stack.phase))
        numbers = sorted({image.slice for stack in stacks for image in stack.images})
        first = stacks[0].images[0]
        shape = (len(stacks), len(numbers))
        labels, truth = np.zeros((2, *shape, first.height, first.width), np.uint8)
        scores = np.full((*shape, len(classes)), np.nan, np.float32)
        candidates = np.zeros(scores.shape, int)
        present = np.zeros(shape, bool)
        for phase, stack in enumerate(stacks):
            for image in stack.images:
                place = phase, numbers.index(image.slice)
                present[place] = True
                truth[place] = _flatten(dict(enumerate(ground_truth.masks(image))), image)
                best = best_predictions(predictions[image.id], score_thr)
                chosen = {categories.index(key): value for key, value in best.items()}
                for label, (_, score) in chosen.items():
                    scores[(*place, label)] = score
                    candidates[(*place, label)] = sum(
                        prediction['category_id'] == categories[label]
                        and prediction['score'] >= score_thr
                        for prediction in predictions[image.id]
                    )
                order = sorted(chosen, key=lambda label: -chosen[label][1])
                labels[place] = _flatten({label: chosen[label][0] for label in order}, image)
        slice_mm, *pixel_mm = stacks[0].spacing
        study = SegmentedStudy(
            name=str(patient),
            images=np.zeros_like(labels),
            labels=labels,
            scores=scores,
            candidates=candidates,
            present=present,
            classes=classes,
            pixel_spacing_mm=tuple(pixel_mm),
            slice_positions_mm=slice_mm * np.array(numbers, float),
            slice_spacing_mm=slice_mm,
            times_ms=None,
            assumptions=(),
            left_out=(),
            model=ModelIdentity(pred_file.name, '', '', score_thr, {}),
        )
        yield Case(study, truth)


def _flatten(masks: dict[int, np.ndarray], image) -> np.ndarray:
    """Label map of masks by index of the class; the earlier ones lie on top."""
    labels = np.zeros((image.height, image.width), np.uint8)
    for label, mask in reversed(masks.items()):
        labels[mask] = label + 1
    return labels


def frame_dice(case: Case) -> np.ndarray:
    """Mean Dice of the classes that a frame has or is said to have, (T, S); NaN without any."""
    dice = np.full(case.study.present.shape, np.nan)
    for place in zip(*np.nonzero(case.study.present)):
        dice[place] = mean_of_defined(
            [
                overlap(case.study.labels[place] == label, case.truth[place] == label)[1]
                for label in range(1, len(case.study.classes) + 1)
            ]
        )
    return dice


def worst_decile_auc(counts: np.ndarray, dice: np.ndarray) -> float:
    """Chance that a frame of the worst tenth of Dice has more findings than another one has.

    That is the area under the ROC curve of the count as a test for a bad frame, by the statistic
    of Mann and Whitney; equal counts are half. NaN where all frames are equally good.

    Args:
        counts: Findings of each frame, any shape.
        dice: Of the same shape; NaN is left out.
    """
    from scipy.stats import mannwhitneyu

    defined = ~np.isnan(dice)
    counts, dice = counts[defined], dice[defined]
    if not len(dice):
        return math.nan
    worst = dice <= np.quantile(dice, WORST_SHARE)
    if worst.all():
        return math.nan
    statistic = mannwhitneyu(counts[worst], counts[~worst]).statistic
    return float(statistic / (worst.sum() * (~worst).sum()))


def correction_effects(cases: list[Case]) -> dict[str, dict[str, float]]:
    """Mean 3-D Dice and HD95 (mm) of all patients, phases and classes, by correction.

    Returns:
        By 'as predicted' and the names of `CORRECTIONS`: `dice`, `hd95_mm`, and `changed`, the
        share of frames that were changed.
    """
    effects = {}
    for name, correct in {'as predicted': lambda study: study.labels, **CORRECTIONS}.items():
        scores, changed = [], []
        for study, truth in cases:
            labels = correct(study)
            changed.append((labels != study.labels).any((2, 3))[study.present])
            spacing = (study.slice_spacing_mm, *study.pixel_spacing_mm)
            for phase, label in np.ndindex(len(labels), len(study.classes)):
                pair = labels[phase] == label + 1, truth[phase] == label + 1
                scores.append(compare_masks(*pair, spacing))
        effects[name] = dict(
            dice=mean_of_defined([score['dice'] for score in scores]),
            hd95_mm=mean_of_defined([score['hd95'] for score in scores]),
            changed=float(np.concatenate(changed).mean()),
        )
    return effects


def validate(ann_file: Path, pred_file: Path, score_thr: float) -> str:
    """What `tools/validate_inference.py` prints."""
    cases = list(read_cases(ann_file, pred_file, score_thr))
    counts = [count_by_frame(find(case.study), case.study.present.shape) for case in cases]
    dice = [frame_dice(case) for case in cases]
    auc = worst_decile_auc(*(np.concatenate([v.ravel() for v in many]) for many in (counts, dice)))
    frames = int(sum(case.study.present.sum() for case in cases))
    lines = [
        f'{len(cases)} patients, {frames} frames, {int(sum(map(np.sum, counts)))} findings',
        f'AUC of the number of findings for the worst tenth of Dice: {auc:.3f}',
        '',
        '| correction | 3-D Dice | HD95 [mm] | frames changed |',
        '| --- | ---: | ---: | ---: |',
    ]
    for name, effect in correction_effects(cases).items():
        lines.append(
            f'| {name} | {effect["dice"]:.4f} | {effect["hd95_mm"]:.2f} | {effect["changed"]:.0%} |'
        )
    return '\n'.join(lines)
