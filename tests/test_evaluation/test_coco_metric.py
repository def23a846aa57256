import copy

import numpy as np
import pycocotools.mask
import pytest
import torch
from mmdet.structures.mask import encode_mask_results
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from swin_ext.evaluation import ClassOrderCocoMetric


def predictions(toy, classes, seed=0):
    """Ground truth, shifted by a few pixels and with false positives, as detector output."""
    rng = np.random.RandomState(seed)
    coco = COCO(str(toy.json_path))
    samples, results = [], []
    for image_id in coco.getImgIds():
        masks, labels, scores = [], [], []
        for annotation in coco.imgToAnns[image_id]:
            name = coco.cats[annotation['category_id']]['name']
            mask = pycocotools.mask.decode(annotation['segmentation'])
            # LV is found well, RV badly: a permutation of classes must show.
            shift = dict(LV=0, Myo=1, RV=4)[name] + rng.randint(0, 2)
            masks.append(np.roll(mask, shift, axis=1))
            labels.append(classes.index(name))
            scores.append(rng.uniform(0.3, 1))
        masks = np.stack(masks)
        boxes = pycocotools.mask.toBbox([r for r in encode_mask_results(masks)])
        boxes[:, 2:] += boxes[:, :2]
        samples.append(dict(
            img_id=image_id, ori_shape=(48, 64),
            pred_instances=dict(
                bboxes=torch.tensor(boxes), scores=torch.tensor(scores),
                labels=torch.tensor(labels), masks=torch.tensor(masks).bool())))
        for mask, label, score in zip(masks, labels, scores):
            rle = pycocotools.mask.encode(np.asfortranarray(mask))
            results.append(dict(image_id=image_id, score=score, segmentation=rle,
                                category_id=coco.getCatIds(catNms=[classes[label]])[0]))
    return samples, results


def class_ap(toy, results, name):
    coco = COCO(str(toy.json_path))
    evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), 'segm')  # it adds keys
    evaluation.params.catIds = coco.getCatIds(catNms=[name])
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize('classes', [
    ('LV', 'Myo', 'RV'), ('RV', 'LV', 'Myo'), ('Myo', 'RV', 'LV')], ids='-'.join)
def test_each_class_gets_its_own_ap_in_any_order(toy_cmr, classes):
    samples, results = predictions(toy_cmr, classes)
    metric = ClassOrderCocoMetric(metric='segm', classwise=True)
    metric.dataset_meta = dict(classes=classes, ann_file=str(toy_cmr.json_path))
    metric.process({}, samples)
    figures = metric.evaluate(len(samples))
    expected = {name: class_ap(toy_cmr, results, name) for name in classes}
    assert len(set(expected.values())) == 3  # else a permutation would not show
    for name in classes:
        assert figures[f'coco/{name}_precision'] == pytest.approx(expected[name], abs=6e-4)
    assert figures['coco/segm_mAP'] == pytest.approx(np.mean(list(expected.values())), abs=6e-4)


def test_class_that_the_ground_truth_lacks(toy_cmr):
    samples, _ = predictions(toy_cmr, ('LV', 'Myo', 'RV'))
    metric = ClassOrderCocoMetric(ann_file=str(toy_cmr.json_path), metric='segm')
    metric.dataset_meta = dict(classes=('LV', 'Aorta'))
    metric.process({}, samples)
    with pytest.raises(ValueError, match=r"no category \['Aorta'\]; it has \['LV', 'Myo', 'RV'\]"):
        metric.evaluate(len(samples))
