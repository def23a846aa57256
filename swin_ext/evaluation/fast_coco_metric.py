"""COCO average precision in a fraction of the time, with labels in the order of the data set."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence

import numpy as np
import pycocotools.mask
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger, print_log
from mmengine.registry import METRICS
from terminaltables import AsciiTable

from swin_ext.coco.categories import category_ids
from swin_ext.coco.reading import read_coco
from swin_ext.evaluation.average_precision import (
    PRECISION_ITEMS,
    RECALL_ITEMS,
    average_precision,
    summarize,
)
from swin_ext.evaluation.errors import EvaluationError
from swin_ext.evaluation.run_lengths import encode_masks
from swin_ext.evaluation.sample_truth import samples_to_coco, to_json_rle, xyxy_to_xywh
from swin_ext.evaluation.samples import FailTogetherMixin, drop_duplicates, read_prediction
from swin_ext.utils.files import replacing_text
from swin_ext.utils.optional import require


@METRICS.register_module()
class FastCocoMetric(FailTogetherMixin, CocoMetric):
    """mmdet's `CocoMetric` on faster-coco-eval, for data sets whose label i is `classes[i]`.

    Masks become run-length codes one image at a time and, on a GPU, before they leave it; results
    never pass through JSON, and matching runs in C++. Figures are those of pycocotools, and
    arguments those of `CocoMetric`, with these differences:

    - Without `ann_file` the ground truth is the annotation file of the data set
      (`metainfo['ann_file']`, see `CMRDataset`), and, where there is none, the samples' instances.
    - Label i stands for `classes[i]` by name; mmdet takes it for the i-th category of the JSON.
    - Figures are not rounded to three digits.
    - With `classwise`, class C has `bbox_C_precision` and `segm_C_precision` (mmdet writes
      `C_precision` for both, so that the masks' replaces the boxes'), and AP at an IoU of 0.5 as
      `bbox_C_precision_50` and `segm_C_precision_50`.
    - No detection at all is an AP of 0, where mmdet has no figures then.
    - An annotation with id 0 can be matched; pycocotools takes it for "no match".
    - There is no metric 'proposal_fast', which fails in mmdet with the NumPy of today.
    - `use_mp_eval` and `sort_categories` have no effect.

    Raises:
        ModuleNotFoundError: If faster-coco-eval is not installed.
        AnnotationError: If the annotation file cannot be used, see `read_coco`.
        EvaluationError: If it is unknown which label is which class, if masks are asked for and
            missing, or if a prediction has a NaN score, an unknown label or an unknown image.
    """

    def __init__(self, ann_file: str | None = None, metric: str | Sequence[str] = 'bbox', **kwargs):
        require('faster_coco_eval', 'FastCocoMetric')
        super().__init__(metric=metric if isinstance(metric, str) else list(metric), **kwargs)
        unknown = set(self.metric_items or ()) - {*PRECISION_ITEMS, *RECALL_ITEMS}
        if unknown:
            raise KeyError(
                f'FastCocoMetric: metric_items {sorted(unknown)} are unknown; there are '
                f'{[*PRECISION_ITEMS, *RECALL_ITEMS]}.'
            )
        if 'proposal_fast' in self.metrics:
            raise EvaluationError(
                "FastCocoMetric: mmdet's 'proposal_fast' fails with NumPy 1.24 and "
                "newer; take 'proposal' instead."
            )
        if len(self.proposal_nums) != 3 or 100 not in self.proposal_nums:
            raise EvaluationError(
                f'FastCocoMetric: proposal_nums={self.proposal_nums} must be three '
                'numbers with 100 among them, at which COCO defines its mAP.'
            )
        self.ann_file = ann_file

    def metric_names(self) -> list[str]:
        """All keys of `evaluate`, with their prefix; `dataset_meta` must be set for `classwise`."""
        names = []
        for metric in self.metrics:
            if metric == 'proposal':
                names += self.metric_items or RECALL_ITEMS
            else:
                names += [f'{metric}_{item}' for item in self.metric_items or PRECISION_ITEMS]
                if self.classwise:
                    names += [
                        f'{metric}_{name}_{item}'
                        for name in self.dataset_meta['classes']
                        for item in ('precision', 'precision_50')
                    ]
        return [f'{self.prefix}/{name}' for name in names]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the boxes, scores, labels and run-length codes of a batch's predictions."""
        for sample in data_samples:
            result = read_prediction(sample, len(self.dataset_meta['classes']))
            if isinstance(result.get('masks'), torch.Tensor):
                result['masks'] = encode_masks(result['masks'])
            height, width = sample['ori_shape'][:2]
            gt = dict(img_id=result['img_id'], height=height, width=width)
            if self._ann_file() is None:
                if 'instances' not in sample:
                    raise EvaluationError(
                        'FastCocoMetric has no ground truth: give it ann_file, use a data set with '
                        "metainfo['ann_file'] such as CMRDataset, or load annotations in the test "
                        'pipeline.'
                    )
                gt['anns'] = sample['instances']
            self.results.append((gt, result))

    def evaluate(self, size: int) -> dict[str, float]:
        """Evaluate all predictions since the last call; see `BaseMetric.evaluate`."""
        # Hundreds of thousands of small dicts are built, which the collector of cyclic garbage
        # would walk through over and over: a third of the time.
        collecting = gc.isenabled()
        gc.disable()
        try:
            return super().evaluate(size)
        finally:
            if collecting:
                gc.enable()

    def compute_figures(self, results: list) -> dict[str, float]:
        """Evaluate the predictions of all ranks."""
        from faster_coco_eval import COCOeval_faster

        logger = MMLogger.get_current_instance()
        results = drop_duplicates(results, image_id=lambda result: result[0]['img_id'])
        preds = [pred for _, pred in results]
        if self._coco_api is None:
            self._load_ground_truth([gt for gt, _ in results])
        if self.outfile_prefix is not None:
            self.results2json(preds, self.outfile_prefix)
            if self._ann_file() is None:
                self._write_ground_truth([gt for gt, _ in results])
        if self.format_only:
            logger.info(f'Predictions are saved as {self.outfile_prefix}.*.json.')
            return {}

        figures = {}
        for metric in self.metrics:
            iou_type = 'bbox' if metric == 'proposal' else metric
            evaluation = COCOeval_faster(
                self._coco_api,
                self._detections(preds, iou_type),
                iou_type,
                print_function=logger.debug,
            )
            evaluation.params.catIds = list(self._coco_api.cats)
            evaluation.params.imgIds = self.img_ids
            evaluation.params.maxDets = self.proposal_nums
            evaluation.params.iouThrs = np.atleast_1d(self.iou_thrs)
            evaluation.params.useCats = int(metric != 'proposal')
            evaluation.evaluate()
            evaluation.accumulate()
            stats = summarize(evaluation)
            if metric == 'proposal':
                figures.update({item: stats[item] for item in self.metric_items or RECALL_ITEMS})
                continue
            figures.update(
                {f'{metric}_{item}': stats[item] for item in self.metric_items or PRECISION_ITEMS}
            )
            if self.classwise:
                figures.update(self._classwise(evaluation, metric))
        return figures

    def _ann_file(self) -> str | None:
        return self.ann_file or self.dataset_meta.get('ann_file')

    def _load_ground_truth(self, gts: list[dict]) -> None:
        """Set `_coco_api`, `cat_ids` (in label order), `img_ids` and what images are like."""
        from faster_coco_eval import COCO

        ann_file, classes = self._ann_file(), self.dataset_meta['classes']
        if ann_file is None:
            content = samples_to_coco(gts, classes)
        else:
            content = read_coco(
                ann_file,
                invalid=self.dataset_meta.get('invalid', 'error'),
                text_ids=True,
                backend_args=self.backend_args,
            )
        ids = category_ids(content, classes, 'The ground truth of the metric')
        in_file = [name for name in ids if name in classes]
        if 'ann_file' not in self.dataset_meta and in_file != list(classes):
            raise EvaluationError(
                f'{ann_file} lists the categories {in_file}, the data set {list(classes)}, and '
                "mmdet's CocoDataset would number labels in the order of the file: give "
                'metainfo.classes in that order, or use CMRDataset, whose label i is classes[i].'
            )
        self.cat_ids = [ids[name] for name in classes]

        # The evaluator wants integer ids from 1, and writes into the annotations.
        self._number_of_image = {
            image['id']: number for number, image in enumerate(content['images'], 1)
        }
        self._size_of_image = {
            self._number_of_image[image['id']]: (image['height'], image['width'])
            for image in content['images']
        }
        api = COCO()
        used = [a for a in content['annotations'] if a['category_id'] in set(self.cat_ids)]
        if 'segm' in self.metrics:
            without = [a['id'] for a in used if not a.get('segmentation')]
            if without:
                raise EvaluationError(
                    f"{ann_file or 'The ground truth'}: metric 'segm' needs masks, but "
                    f'{len(without)} annotations have no segmentation, the first of them with id '
                    f'{without[0]}.'
                )
        api.dataset = dict(
            images=[
                dict(
                    id=self._number_of_image[image['id']],
                    height=image['height'],
                    width=image['width'],
                )
                for image in content['images']
            ],
            categories=[dict(id=ids[name], name=name) for name in in_file],
            annotations=[
                dict(a, id=number, image_id=self._number_of_image[a['image_id']])
                for number, a in enumerate(used, 1)
            ],
        )
        api.createIndex()
        self._coco_api, self.img_ids = api, list(api.imgs)

    def _write_ground_truth(self, gts: list[dict]) -> None:
        """Write the samples' instances as `PREFIX.gt.json`, as `CocoMetric` does."""
        content = samples_to_coco(gts, self.dataset_meta['classes'])
        for annotation in content['annotations']:
            if isinstance(annotation['segmentation'], dict):
                annotation['segmentation'] = to_json_rle(annotation['segmentation'])
        with replacing_text(f'{self.outfile_prefix}.gt.json') as file:
            json.dump(content, file)

    def _number(self, pred: dict) -> int:
        """The evaluator's id of the image that a prediction is for."""
        if pred['img_id'] not in self._number_of_image:
            raise EvaluationError(f'Image {pred["img_id"]!r} is no image of {self._ann_file()}.')
        return self._number_of_image[pred['img_id']]

    def _detections(self, preds: list[dict], iou_type: str):
        """Predictions as the evaluator's data set; `iou_type` is 'bbox' or 'segm'."""
        from faster_coco_eval import COCO

        cat_ids = np.array(self.cat_ids)
        annotations = []
        for pred in preds:
            image = self._number(pred)
            categories, scores = cat_ids[pred['labels']].tolist(), pred['scores']
            if iou_type == 'segm':
                if 'masks' not in pred:
                    raise EvaluationError(
                        "FastCocoMetric: metric 'segm' needs masks, but the model predicts none."
                    )
                masks, scores = pred['masks'], pred.get('mask_scores', scores)
                size = self._size_of_image[image]
                for mask in masks:
                    if tuple(mask['size']) != size:
                        raise EvaluationError(
                            f'Image {pred["img_id"]!r}: predicted masks have {mask["size"]} '
                            f'pixels, but {self._ann_file() or "the sample"} says {list(size)}.'
                        )
                # One by one: given more than 255, pycocotools' area overflows with NumPy 2.
                areas = [float(pycocotools.mask.area(mask)) for mask in masks]
                annotations += [
                    dict(
                        image_id=image,
                        category_id=category,
                        score=score,
                        area=area,
                        iscrowd=0,
                        segmentation=mask,
                    )
                    for category, score, area, mask in zip(
                        categories, scores.tolist(), areas, masks
                    )
                ]
            else:
                boxes = xyxy_to_xywh(pred['bboxes'])
                annotations += [
                    dict(
                        image_id=image,
                        category_id=category,
                        score=score,
                        area=area,
                        iscrowd=0,
                        bbox=box,
                    )
                    for category, score, area, box in zip(
                        categories,
                        scores.tolist(),
                        (boxes[:, 2] * boxes[:, 3]).tolist(),
                        boxes.tolist(),
                    )
                ]
        for number, annotation in enumerate(annotations, 1):
            annotation['id'] = number
        api = COCO()
        api.dataset = dict(
            images=self._coco_api.dataset['images'],
            categories=self._coco_api.dataset['categories'],
            annotations=annotations,
        )
        api.createIndex()
        return api

    def _classwise(self, evaluation, metric: str) -> dict[str, float]:
        figures = {}
        table = [['category', 'mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']]
        for name, cat_id in zip(self.dataset_meta['classes'], self.cat_ids):
            rank = sorted(self.cat_ids).index(cat_id)
            row = [
                average_precision(evaluation, cat=rank, **selection)
                for selection in (
                    {},
                    dict(iou=0.5),
                    dict(iou=0.75),
                    dict(area=1),
                    dict(area=2),
                    dict(area=3),
                )
            ]
            figures[f'{metric}_{name}_precision'] = row[0]
            figures[f'{metric}_{name}_precision_50'] = row[1]
            table.append([name, *(f'{value:.3f}' for value in row)])
        print_log(f'{metric}:\n{AsciiTable(table).table}', 'current')
        return figures
