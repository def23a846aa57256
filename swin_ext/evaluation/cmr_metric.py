"""What clinicians ask of a cardiac segmentation: Dice, distances in mm, volumes, mass, EF."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pycocotools.mask
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from mmengine.registry import METRICS
from tqdm import tqdm

from swin_ext.evaluation.clinical import (
    INDEX_UNITS,
    bland_altman,
    clinical_indices,
    compare_masks,
    mean_of_defined,
    volume_ml,
)
from swin_ext.evaluation.cmr_ground_truth import CMRGroundTruth, CMRImage, Stack
from swin_ext.evaluation.errors import EvaluationError
from swin_ext.evaluation.samples import (
    FailTogetherMixin,
    as_labels,
    check_prediction,
    drop_duplicates,
)
from swin_ext.utils.optional import require

DEFAULT_ROLES = dict(lv='LV', myo='Myo', rv='RV')
# A structure that is found in fewer of its slices says little of the volume.
FOUND_FRACTION = 0.5
SCORES = ('dice', 'jaccard', 'hd95', 'assd')


@dataclass
class CMRReport:
    """All cases of one evaluation.

    Attributes:
        unit: Of distances per slice, 'mm' or 'px'.
        slices: Of each image and class, its scores.
        stacks: Of each patient, phase and class, its scores in 3-D and its volumes in ml.
        indices: Of each patient, predicted and reference values by name of the index.
        findings: What to look at before a patient's figures are believed, by patient.
    """

    unit: str
    slices: list[dict] = field(default_factory=list)
    stacks: list[dict] = field(default_factory=list)
    indices: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    findings: dict[str, list[str]] = field(default_factory=dict)


@METRICS.register_module()
class CMRMetric(FailTogetherMixin, BaseMetric):
    """Agreement per slice and per patient, and clinical indices, of instance segmentations.

    The instances of a class are merged into one mask per image, which is compared with the union
    of its annotations; see `compare_masks` for absent structures. Classes are judged one by one:
    masks of two classes may overlap. Keys of `evaluate`, for a class named LV:

    - `cmr/LV_dice`, `cmr/LV_jaccard`, `cmr/LV_hd95_mm`, `cmr/LV_assd_mm`: means over the slices;
      `cmr/LV_missed` and `cmr/LV_spurious`: how many slices have the structure in the annotation
      alone and in the prediction alone. Without the class's name: the mean over classes.
    - `cmr/LV_dice_3d` and so on: means over the stacks (patient and phase).
    - `cmr/LV_EDV_bias_ml`, `cmr/LV_EDV_loa_lower_ml`, `cmr/LV_EDV_loa_upper_ml`: bias and limits
      of agreement over patients, also for `LV_ESV`, `LV_EF` (`_percent`), `LV_mass` (`_g`) and
      `RV_*`. A patient whose ventricle was not found at ED or ES has no predicted EF;
      `cmr/not_measured_LV_EF` counts these patients.

    The last two need `patient_id`, `slice` and `slice_spacing_mm` on the images of the JSON, and
    `phase` with the values 'ED' and 'ES' for the indices; what an image lacks is logged, and the
    figures that depend on it are left out. Without `spacing_mm`, keys end in `_px`.

    Args:
        ann_file: COCO file; the data set's own (`metainfo['ann_file']`) by default.
        merge: 'best' takes the instance of the highest score, 'union' all instances.
        score_thr: Instances below this score are not used, so that a slice without a structure
            can be predicted as such. By default that of mmdet's pictures.
        roles: Classes that are the left ventricle's cavity (`lv`), its myocardium (`myo`) and the
            right ventricle's cavity (`rv`); LV, Myo and RV by default, as far as there are such.
        slice_spacing_mm: Distance of slice centres (thickness and gap), for images without one.

    Raises:
        ModuleNotFoundError: If MONAI is not installed.
        EvaluationError: If an argument or the ground truth is impossible (see `CMRGroundTruth`), or
            a prediction has a NaN score, no masks, masks of another size or an unknown label.
    """

    default_prefix = 'cmr'

    def __init__(
        self,
        ann_file: str | None = None,
        merge: str = 'best',
        score_thr: float = 0.3,
        roles: dict[str, str] | None = None,
        slice_spacing_mm: float | None = None,
        backend_args: dict | None = None,
        **kwargs,
    ):
        require('monai', 'CMRMetric')
        super().__init__(**kwargs)
        if merge not in ('best', 'union'):
            raise EvaluationError(f"CMRMetric: merge={merge!r} must be 'best' or 'union'.")
        if not 0 <= score_thr <= 1:
            raise EvaluationError(f'CMRMetric: score_thr={score_thr!r} must lie in [0, 1].')
        unknown = set(roles or ()) - set(DEFAULT_ROLES)
        if unknown:
            raise EvaluationError(
                f'CMRMetric: unknown roles {sorted(unknown)}; there are {list(DEFAULT_ROLES)}.'
            )
        self.ann_file, self.merge, self.score_thr, self.roles = ann_file, merge, score_thr, roles
        self.slice_spacing_mm, self.backend_args = slice_spacing_mm, backend_args
        self._truth: CMRGroundTruth | None = None
        self.report: CMRReport | None = None  # of the last evaluation

    def metric_names(self) -> list[str]:
        """All keys of `evaluate`, with their prefix; `dataset_meta` must be set."""
        return [f'{self.prefix}/{name}' for name in self._names()]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Merge the instances of a batch's predictions."""
        truth, num_classes = self._ground_truth(), len(self.dataset_meta['classes'])
        for sample in data_samples:
            pred, image_id = sample['pred_instances'], sample['img_id']
            labels, scores = as_labels(pred['labels']), pred['scores'].cpu().numpy()
            check_prediction(dict(img_id=image_id, labels=labels, scores=scores), num_classes)
            if 'masks' not in pred:
                raise EvaluationError('CMRMetric needs masks, but the model predicts none.')
            if image_id not in truth.images:
                raise EvaluationError(f'Image {image_id!r} is no image of {truth.ann_file}.')
            image = truth.images[image_id]
            rles = [
                merge_instances(pred['masks'], self._choose(labels == label, scores))
                for label in range(num_classes)
            ]
            for rle in rles:
                if rle is not None and list(rle['size']) != [image.height, image.width]:
                    raise EvaluationError(
                        f'Image {image_id!r}: predicted masks have {rle["size"]} pixels, but '
                        f'{truth.ann_file} says {[image.height, image.width]}.'
                    )
            self.results.append(dict(img_id=image_id, rles=rles))

    def compute_figures(self, results: list) -> dict[str, float]:
        """Compare the merged masks of all ranks with the ground truth."""
        truth, classes = self._ground_truth(), self.dataset_meta['classes']
        results = drop_duplicates(results, image_id=lambda result: result['img_id'])
        rles = {result['img_id']: result['rles'] for result in results}
        self.report = CMRReport(truth.unit)
        masks = {}  # predicted and true (classes, H, W) of the images that belong to a stack
        in_stack = {image.id for stack in truth.stacks for image in stack.images}
        for image_id in tqdm(rles, 'Comparing slices', delay=10):
            image = truth.images[image_id]
            pair = decode(rles[image_id], image), truth.masks(image)
            self._compare_slice(image, *pair)
            if image_id in in_stack:
                masks[image_id] = tuple(np.packbits(mask) for mask in pair)
        incomplete = []
        for stack in tqdm(truth.stacks, 'Comparing stacks', delay=10):
            images = tuple(image for image in stack.images if image.id in masks)
            if len(images) < len(stack.images):
                incomplete.append(stack.describe())
            if images:
                stack = Stack(stack.patient, stack.phase, images)
                shape = (len(classes), images[0].height, images[0].width)
                self._compare_stack(
                    stack,
                    *(
                        np.stack(
                            [unpack(masks[image.id][which], shape) for image in images], axis=1
                        )
                        for which in (0, 1)
                    ),
                )
        if incomplete:
            print_log(
                f'CMRMetric: of {len(incomplete)} stacks only some slices were evaluated, '
                'and only these make up their volumes, predicted and true: '
                f'{", ".join(incomplete[:5])}{" ..." if len(incomplete) > 5 else ""}.',
                'current',
                30,
            )
        self._compute_indices()
        self._find_implausible()
        self._log_extent(len(rles))
        return self._figures()

    def write_report(self, folder: str | Path) -> list[Path]:
        """Write tables and pictures of the last evaluation.

        Returns:
            The files: `cmr_slices.csv` (one row per image and class) and `cmr_boxplots.png`; with
            patients also `cmr_patients.csv`, and with clinical indices `cmr_bland_altman.png`.
        """
        from swin_ext.evaluation.cmr_report import write_report

        if self.report is None:
            raise RuntimeError('CMRMetric.write_report: nothing was evaluated yet.')
        return write_report(self.report, self.dataset_meta['classes'], Path(folder))

    def _ground_truth(self) -> CMRGroundTruth:
        if self._truth is None:
            ann_file = self.ann_file or self.dataset_meta.get('ann_file')
            if ann_file is None:
                raise EvaluationError(
                    'CMRMetric has no ground truth: give it ann_file, or use a data '
                    "set with metainfo['ann_file'] such as CMRDataset."
                )
            self._truth = CMRGroundTruth(
                ann_file,
                tuple(self.dataset_meta['classes']),
                self.slice_spacing_mm,
                self.backend_args,
            )
        return self._truth

    def _class_roles(self) -> dict[str, str]:
        """Role of each class that has one."""
        classes = self.dataset_meta['classes']
        unknown = [name for name in (self.roles or {}).values() if name not in classes]
        if unknown:
            raise EvaluationError(
                f'CMRMetric: roles={self.roles} name {unknown}, but the classes are '
                f'{list(classes)}.'
            )
        roles = DEFAULT_ROLES if self.roles is None else self.roles
        return {name: role for role, name in roles.items() if name in classes}

    def _choose(self, of_class: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Indices of the instances that make up a class."""
        chosen = np.flatnonzero(of_class & (scores >= self.score_thr))
        if self.merge == 'best' and len(chosen):
            chosen = chosen[scores[chosen].argmax()][None]
        return chosen

    def _compare_slice(self, image: CMRImage, pred: np.ndarray, truth: np.ndarray) -> None:
        for label, name in enumerate(self.dataset_meta['classes']):
            self.report.slices.append(
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
            )

    def _compare_stack(self, stack: Stack, pred: np.ndarray, truth: np.ndarray) -> None:
        """Masks are (classes, D, H, W)."""
        spacing = stack.spacing
        for label, name in enumerate(self.dataset_meta['classes']):
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
            self.report.stacks.append(row)

    def _compute_indices(self) -> None:
        roles = self._class_roles()
        volumes = defaultdict(lambda: (defaultdict(dict), defaultdict(dict)))
        for row in self.report.stacks:
            if 'volume_ml' in row and row['class'] in roles:
                pred, reference = volumes[row['patient_id']]
                pred[roles[row['class']]][row['phase']] = row['volume_ml']
                reference[roles[row['class']]][row['phase']] = row['volume_ml_reference']
        for patient, (pred, reference) in volumes.items():
            indices = clinical_indices(pred), clinical_indices(reference)
            self.report.indices[patient] = {
                name: (indices[0][name], indices[1][name]) for name in indices[0]
            }

    def _find_implausible(self) -> None:
        """Fill `report.findings`, and warn of each."""
        findings = defaultdict(list)
        for row in self.report.stacks:
            predicted, annotated = row['slices_predicted'], row['slices_annotated']
            if predicted < FOUND_FRACTION * annotated:
                where = f' at {row["phase"]}' if row['phase'] else ''
                findings[row['patient_id']].append(
                    f'{row["class"]}{where} was found in {predicted} slices, but {annotated} are '
                    'annotated'
                )
        for patient, indices in self.report.indices.items():
            for index, pair in indices.items():
                if not index.endswith('_EF'):
                    continue
                for source, value in zip(('predicted', 'reference'), pair):
                    if math.isnan(value):
                        findings[patient].append(
                            f'{source} {index.replace("_", " ")} is undefined: no volume at ED or '
                            'ES'
                        )
                    elif value < 0:
                        findings[patient].append(
                            f'{source} {index.replace("_", " ")} is {value:.0f} %: ED is smaller '
                            'than ES, which may have been exchanged'
                        )
        self.report.findings = dict(findings)
        for patient, texts in findings.items():
            print_log(f'CMRMetric: patient {patient}: {"; ".join(texts)}.', 'current', 30)

    def _log_extent(self, num_images: int) -> None:
        report = self.report
        without = len({row['image_id'] for row in report.slices}) - len(
            {row['image_id'] for row in report.slices if row['annotated']}
        )
        patients = len({row['patient_id'] for row in report.stacks})
        stacks = len({(row['patient_id'], row['phase']) for row in report.stacks})
        MMLogger.get_current_instance().info(
            f'CMRMetric: {num_images} slices, {without} of them without any annotation; {stacks} '
            f'stacks of {patients} patients. Predictions count from a score of {self.score_thr:g}.'
        )

    def about(self) -> dict[str, float | int | str]:
        """What the last evaluation was of, for the files that results are written to."""
        report = self.report
        return {
            'annotation file': str(self._ground_truth().ann_file),
            'slices': len({row['image_id'] for row in report.slices}),
            'patients': len({row['patient_id'] for row in report.stacks}),
            'score threshold of Dice and volumes': self.score_thr,
        }

    def _names(self) -> list[str]:
        """Keys of `_figures`: what the ground truth allows, whatever part of it is evaluated."""
        truth, classes = self._ground_truth(), self.dataset_meta['classes']
        names = [
            f'{score}_{truth.unit}' if score in ('hd95', 'assd') else score for score in SCORES
        ]
        if truth.stacks:
            names += ['dice_3d', 'jaccard_3d']
        measured = [stack for stack in truth.stacks if stack.spacing is not None]
        if measured:
            names += ['hd95_mm_3d', 'assd_mm_3d']
        names = [
            *names,
            *(f'{name}_{key}' for name in classes for key in [*names, 'missed', 'spurious']),
        ]
        phases = defaultdict(dict)
        for stack in measured:
            phases[stack.patient][stack.phase] = 1.0
        roles = self._class_roles().values()
        possible = {
            index
            for by_phase in phases.values()
            for index in clinical_indices(dict.fromkeys(roles, by_phase))
        }
        names += [
            f'{index}_{what}_{unit}'
            for index, unit in INDEX_UNITS.items()
            if index in possible
            for what in ('bias', 'loa_lower', 'loa_upper')
        ]
        return names + [f'not_measured_{index}' for index in sorted(possible) if 'EF' in index]

    def _figures(self) -> dict[str, float]:
        report, classes = self.report, self.dataset_meta['classes']
        figures = dict.fromkeys(self._names(), math.nan)

        def add(rows, score, key):
            of_class = [
                mean_of_defined([row[score] for row in rows if row['class'] == name])
                for name in classes
            ]
            figures.update({f'{name}_{key}': mean for name, mean in zip(classes, of_class)})
            figures[key] = mean_of_defined(of_class)

        for score in SCORES:
            is_distance = score in ('hd95', 'assd')
            add(report.slices, score, f'{score}_{report.unit}' if is_distance else score)
            key = f'{score}_mm_3d' if is_distance else f'{score}_3d'
            if key in figures:
                add(report.stacks, score, key)
        for name in classes:
            rows = [row for row in report.slices if row['class'] == name]
            figures[f'{name}_missed'] = sum(
                row['annotated'] and not row['predicted'] for row in rows
            )
            figures[f'{name}_spurious'] = sum(
                row['predicted'] and not row['annotated'] for row in rows
            )
        for index, unit in INDEX_UNITS.items():
            pairs = [
                of_patient[index] for of_patient in report.indices.values() if index in of_patient
            ]
            if index.endswith('_EF') and f'not_measured_{index}' in figures:
                figures[f'not_measured_{index}'] = sum(
                    math.isnan(pred) and not math.isnan(reference) for pred, reference in pairs
                )
            if pairs:
                for what, value in zip(
                    ('bias', 'loa_lower', 'loa_upper'), bland_altman(*zip(*pairs))
                ):
                    figures[f'{index}_{what}_{unit}'] = value
        return figures


def merge_instances(masks: torch.Tensor | list[dict], chosen: np.ndarray) -> dict | None:
    """RLE of the union of the chosen instances, None if there are none.

    Args:
        masks: Boolean (N, H, W), or N COCO RLEs.
        chosen: Indices into `masks`.
    """
    if not len(chosen):
        return None
    if isinstance(masks, torch.Tensor):
        union = masks[torch.from_numpy(chosen).to(masks.device)].bool().any(0).cpu().numpy()
        return pycocotools.mask.encode(np.asfortranarray(union, dtype=np.uint8))
    return pycocotools.mask.merge([masks[index] for index in chosen])


def decode(rles: list[dict | None], image: CMRImage) -> np.ndarray:
    """Boolean masks (classes, H, W)."""
    masks = np.zeros((len(rles), image.height, image.width), bool)
    for mask, rle in zip(masks, rles):
        if rle is not None:
            mask[:] = pycocotools.mask.decode(rle)
    return masks


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return np.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(bool)
