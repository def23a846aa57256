"""COCO average precision in a fraction of the time, with labels in the order of the data set."""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence

import numpy as np
import pycocotools.mask
import torch
from mmdet.evaluation import CocoMetric
from mmengine.fileio import load
from mmengine.logging import MMLogger, print_log
from mmengine.registry import METRICS
from terminaltables import AsciiTable

from swin_ext.coco.categories import category_ids
from swin_ext.evaluation.errors import EvaluationError
from swin_ext.evaluation.samples import (
    FailTogetherMixin,
    as_labels,
    check_prediction,
    drop_duplicates,
)
from swin_ext.utils.files import replacing_text
from swin_ext.utils.optional import require

# The figures of COCOeval.stats, in its order: average precision, then average recall.
PRECISION_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALL_ITEMS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


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
            pred = sample['pred_instances']
            result = dict(img_id=sample['img_id'])
            result['labels'] = as_labels(pred['labels'])
            for key in ('bboxes', 'scores', 'mask_scores'):
                if key in pred:
                    result[key] = pred[key].cpu().numpy()
            check_prediction(result, len(self.dataset_meta['classes']))
            if 'masks' in pred:
                masks = pred['masks']
                result['masks'] = encode_masks(masks) if isinstance(masks, torch.Tensor) else masks
            height, width = sample['ori_shape'][:2]
            gt = dict(img_id=sample['img_id'], height=height, width=width)
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
        """Set `_coco_api`, `cat_ids` (in label order) and `img_ids`."""
        from faster_coco_eval import COCO

        ann_file, classes = self._ann_file(), self.dataset_meta['classes']
        if ann_file is None:
            content = samples_to_coco(gts, classes)
        else:
            content = load(ann_file, file_format='json', backend_args=self.backend_args)
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


def to_json_rle(rle: dict) -> dict:
    """A run-length code with text in place of the bytes of its counts, which JSON lacks."""
    counts = rle['counts']
    return dict(rle, counts=counts.decode() if isinstance(counts, bytes) else counts)


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """Run-length codes of the boolean masks of one image, all at once and on their device.

    A code lists where pixels differ from the one before, going down the columns. Comparing whole
    rows finds these places without transposing the masks, so that only they leave the GPU.

    Args:
        masks: Shape (N, H, W).

    Returns:
        One COCO RLE per mask, its counts compressed, as `pycocotools.mask.encode` has it.
    """
    masks = masks.detach().bool()
    num, height, width = masks.shape
    if not masks.numel():
        return [
            pycocotools.mask.encode(np.zeros((height, width), np.uint8, order='F'))
            for _ in range(num)
        ]
    size = height * width
    index, pixel = np.divmod(find_changes(masks), size)
    row, column = np.divmod(pixel, width)
    starts = np.concatenate([index * size + column * height + row, np.arange(num + 1) * size])
    starts.sort()
    counts = np.diff(starts).tolist()
    ends = (np.bincount(index, minlength=num) + 1).cumsum().tolist()
    rles = [
        dict(size=[height, width], counts=counts[begin:end]) for begin, end in zip([0, *ends], ends)
    ]
    return pycocotools.mask.frPyObjects(rles, height, width)


def find_changes(masks: torch.Tensor) -> np.ndarray:
    """Flat indices into masks (N, H, W) of the pixels that differ from the one above them.

    The pixel above the top of a column is the foot of the column before, and False for the first.
    """
    changes = torch.empty_like(masks)
    torch.ne(masks[:, 1:], masks[:, :-1], out=changes[:, 1:])
    torch.ne(masks[:, 0, 1:], masks[:, -1, :-1], out=changes[:, 0, 1:])
    changes[:, 0, 0] = masks[:, 0, 0]
    if changes.is_cuda:
        return changes.flatten().nonzero()[:, 0].cpu().numpy()
    return np.flatnonzero(changes.numpy())


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to corner and size, shape (N, 4), in double precision as mmdet's `xyxy2xywh`."""
    boxes = boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def samples_to_coco(gts: list[dict], classes: Sequence[str]) -> dict:
    """COCO content from the instances of data samples, as mmdet's `gt_to_coco_json` has it."""
    images, annotations = [], []
    for gt in gts:
        images.append(dict(id=gt['img_id'], height=gt['height'], width=gt['width']))
        for instance in gt['anns']:
            x, y, w, h = xyxy_to_xywh(np.array([instance['bbox']]))[0].tolist()
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=gt['img_id'],
                    bbox=[x, y, w, h],
                    area=w * h,
                    category_id=int(instance['bbox_label']),
                    iscrowd=instance.get('ignore_flag', 0),
                    segmentation=instance.get('mask'),
                )
            )
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)


def average_precision(
    evaluation,
    cat: int | slice = slice(None),
    iou: float | None = None,
    area: int = 0,
    max_dets: int = -1,
) -> float:
    """Mean of the evaluated precisions; NaN where there is nothing to find.

    Args:
        cat: Rank of the category; all by default.
        iou: IoU threshold; all by default.
        area: 0 for objects of any size, 1 for small, 2 for medium, 3 for large ones.
        max_dets: Index of the number of detections per image.
    """
    precision = evaluation.eval['precision']  # (IoU, recall, category, area, max_dets)
    if iou is not None:
        precision = precision[np.isclose(evaluation.params.iouThrs, iou)]
    precision = precision[:, :, cat, area, max_dets]
    precision = precision[precision > -1]
    return float(precision.mean()) if precision.size else float('nan')


def summarize(evaluation) -> dict[str, float]:
    """The twelve figures of pycocotools' `COCOeval.summarize`, -1 where there is nothing to find.

    Like there, mAP counts the 100 best detections of an image, the others the largest number.
    """

    def recall(area=0, max_dets=-1):
        values = evaluation.eval['recall'][:, :, area, max_dets]
        values = values[values > -1]
        return float(values.mean()) if values.size else -1.0

    precisions = [
        average_precision(evaluation, max_dets=list(evaluation.params.maxDets).index(100)),
        average_precision(evaluation, iou=0.5),
        average_precision(evaluation, iou=0.75),
        *(average_precision(evaluation, area=area) for area in (1, 2, 3)),
    ]
    recalls = [
        *(recall(max_dets=index) for index in range(3)),
        *(recall(area=area) for area in (1, 2, 3)),
    ]
    stats = dict(zip(PRECISION_ITEMS, (-1.0 if np.isnan(p) else p for p in precisions)))
    stats.update(zip(RECALL_ITEMS, recalls))
    return stats
