"""What clinicians ask of a cardiac segmentation: Dice, distances in mm, volumes, mass, EF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycocotools.mask
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS

from swin_ext.evaluation import cmr_figures
from swin_ext.evaluation.cmr_comparison import CMRReport, compare
from swin_ext.evaluation.cmr_ground_truth import CMRGroundTruth
from swin_ext.evaluation.errors import EvaluationError
from swin_ext.evaluation.samples import FailTogetherMixin, drop_duplicates, read_prediction
from swin_ext.utils.optional import require

DEFAULT_ROLES = dict(lv='LV', myo='Myo', rv='RV')


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
        truth, roles = self._ground_truth(), self._class_roles()
        names = cmr_figures.name_figures(truth, self.dataset_meta['classes'], roles.values())
        return [f'{self.prefix}/{name}' for name in names]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Merge the instances of a batch's predictions."""
        truth, num_classes = self._ground_truth(), len(self.dataset_meta['classes'])
        for sample in data_samples:
            pred = read_prediction(sample, num_classes)
            image_id, labels, scores = pred['img_id'], pred['labels'], pred['scores']
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
        roles = self._class_roles()
        self.report = compare(truth, rles, classes, roles)
        self._log_extent(len(rles))
        return cmr_figures.compute_figures(
            self.report, cmr_figures.name_figures(truth, classes, roles.values()), classes
        )

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
                self.dataset_meta.get('invalid', 'error'),
            )
        return self._truth

    def _class_roles(self) -> dict[str, str]:
        """Role of each class that has one."""
        classes = self.dataset_meta['classes']
        given = list((self.roles or {}).values())
        unknown = [name for name in given if name not in classes]
        if len(set(given)) < len(given):
            raise EvaluationError(f'CMRMetric: roles={self.roles} give one class several roles.')
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

    def about(self) -> dict[str, object]:
        """What the last evaluation was of, for the files that results are written to."""
        report = self.report
        return {
            'annotation file': str(self._ground_truth().ann_file),
            'slices': len({row['image_id'] for row in report.slices}),
            'patients': len({row['patient_id'] for row in report.stacks}),
            'score threshold of Dice and volumes': self.score_thr,
            **({'findings': report.findings} if report.findings else {}),
        }


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
