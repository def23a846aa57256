"""Predictions that no model should make: refused by both metrics, and by the same rules."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from test_cmr_metric import CLASSES, Study

from swin_ext.evaluation import CMRMetric, FastCocoMetric
from swin_ext.evaluation.errors import EvaluationError

METRICS = dict(cmr=CMRMetric, coco=lambda: FastCocoMetric(metric=['bbox', 'segm']))


@pytest.fixture(params=METRICS)
def evaluate(request, tmp_path):
    """Evaluate perfect predictions, with other parts of the first image."""
    study = Study(tmp_path)
    study.path.write_text(json.dumps(study.content))

    def evaluate(img_id=None, **parts):
        samples = study.samples()
        for one in samples:
            boxes = [mask.nonzero().flip(1).float() for mask in one['pred_instances']['masks']]
            one['pred_instances']['bboxes'] = torch.stack(
                [torch.cat([box.amin(0), box.amax(0) + 1]) for box in boxes]
            )
        if img_id is not None:
            samples[0]['img_id'] = img_id
        samples[0]['pred_instances'].update(parts)
        metric = METRICS[request.param]()
        metric.dataset_meta = dict(classes=CLASSES, ann_file=str(study.path))
        metric.process({}, samples)
        return metric.evaluate(len(samples))

    return evaluate


NAN, INF = float('nan'), float('inf')


@pytest.mark.parametrize(
    'parts, message',
    [
        (dict(scores=torch.full((3, 1), 0.9)), r'3 labels, but scores of shape \(3, 1\)'),
        (dict(scores=torch.full((2,), 0.9)), r'3 labels, but scores of shape \(2,\)'),
        (dict(labels=torch.tensor([0])), r'1 labels, but \w+ of shape \(3'),
        (dict(labels=torch.tensor([[0, 1, 2]])), r'1 labels, but \w+ of shape'),
        (dict(masks=torch.ones(1, 40, 50).bool()), r'3 labels, but masks of shape \(1, 40, 50\)'),
        (dict(bboxes=torch.zeros(4, 4)), r'3 labels, but bboxes of shape \(4, 4\)'),
        (
            dict(bboxes=torch.tensor([[0, 0, 1, 1], [0, NAN, 1, 1], [0, 0, 1, 1]])),
            'instance 1 .*box',
        ),
        (dict(bboxes=torch.full((3, 4), INF)), r'instance 0 has the box \[inf'),
        (dict(scores=torch.tensor([0.9, 0.9, INF])), 'instance 2 has the score inf'),
        (dict(mask_scores=torch.tensor([0.9, NAN, 0.9])), 'instance 1 has the mask score nan'),
        (dict(labels=torch.tensor([0, 1, -1])), 'label -1, but the data set has 3 classes'),
        (dict(masks=torch.ones(3, 20, 25).bool()), r'have \[20, 25\] pixels, but .* \[40, 50\]'),
        (dict(img_id=[1]), r'img_id is \[1\], but must be a number or a text'),
        (dict(img_id=torch.tensor(1)), r'img_id is tensor\(1\)'),
    ],
)
def test_impossible_predictions_are_refused(evaluate, parts, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(**parts)


@pytest.mark.parametrize(
    'parts',
    [
        dict(scores=torch.full((3,), 0.5, dtype=torch.bfloat16)),
        dict(scores=torch.full((3,), 0.5, dtype=torch.float16)),
        dict(scores=torch.full((3,), 0.5, requires_grad=True)),
        dict(labels=torch.tensor([0, 1, 2], dtype=torch.int32)),
        dict(img_id=np.int64(1)),
        dict(img_id=1.0),
        dict(img_id='1'),
    ],
    ids=str,
)
def test_other_types_that_mean_the_same(evaluate, parts):
    figures = evaluate(**parts)
    for name in ('cmr/dice', 'coco/bbox_mAP', 'coco/segm_mAP'):
        assert figures.get(name, 1) == pytest.approx(1)
    assert {'cmr/dice', 'coco/segm_mAP'} & figures.keys()
