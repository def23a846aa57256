"""Both metrics on two processes, whose sampler pads the last batch with an image seen before."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_cmr_metric import CLASSES, Study

from swin_ext.evaluation import CMRMetric, FastCocoMetric
from two_ranks import run_on_two_ranks


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path)
    for image_id, masks in study.pred.items():
        masks['LV'] = np.roll(masks['LV'], image_id % 3, axis=1)
    for image in study.content['images'][:1]:  # nine images: an odd number
        study.content['images'].remove(image)
        study.content['annotations'] = [
            a for a in study.content['annotations'] if a['image_id'] != image['id']
        ]
        del study.pred[image['id']]
    study.path.write_text(json.dumps(study.content))
    return study


def evaluate(ann_file: Path, samples: list) -> dict:
    """Figures of both metrics, for which all processes together have seen nine images."""
    figures = {}
    for metric in (CMRMetric(), FastCocoMetric(metric='segm', classwise=True)):
        metric.dataset_meta = dict(classes=CLASSES, ann_file=str(ann_file))
        for sample in samples:
            metric.process({}, [sample])
        figures.update(metric.evaluate(9))
    return {key: float(value) for key, value in figures.items()}


def evaluate_share(rank, folder, ann_file, shares):
    return evaluate(ann_file, shares[rank])


def test_two_processes_have_the_figures_of_one(study, tmp_path):
    samples = study.samples()
    expected = evaluate(study.path, samples)
    shares = samples[0::2], [*samples[1::2], samples[0]]  # of DefaultSampler
    figures = run_on_two_ranks(
        partial(evaluate_share, ann_file=study.path, shares=shares), tmp_path
    )
    assert figures[0].keys() == figures[1].keys() == expected.keys()
    for rank in (0, 1):
        for key, value in expected.items():
            assert figures[rank][key] == pytest.approx(value, nan_ok=True), key
    assert 0 < expected['cmr/LV_dice'] < 1 and 0 < expected['coco/segm_mAP'] < 1


def error_of(rank, folder, ann_file, shares):
    metric = FastCocoMetric(metric='segm')
    metric.dataset_meta = dict(classes=CLASSES, ann_file=str(ann_file))
    metric.process({}, shares[rank])
    try:
        metric.evaluate(9)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize('name', ['LV'])
def test_an_error_of_the_main_process_is_that_of_all(study, tmp_path, name):
    """The ground truth is read by the main process when it computes the figures."""
    for category in study.content['categories']:
        if category['name'] == name:
            category['name'] = 'other'
    study.path.write_text(json.dumps(study.content))
    samples = study.samples()
    errors = run_on_two_ranks(
        partial(error_of, ann_file=study.path, shares=(samples[0::2], samples[1::2])), tmp_path
    )
    assert errors[0] == errors[1]
    assert f"has no category ['{name}']" in errors[0]
