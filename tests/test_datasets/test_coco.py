"""mmdet's COCO data set, evaluated against the file that it was loaded from."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DATASETS, METRICS

import swin_ext.registration  # noqa: F401
from swin_ext.datasets import DatasetError
from toy_cmr import ToyCMR


def build(data: ToyCMR, classes: tuple = ToyCMR.classes):
    return DATASETS.build(
        dict(
            type='CocoFileDataset',
            data_root=str(data.root),
            ann_file='val.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=classes),
            test_mode=True,
        )
    )


def perfect(data: ToyCMR, dataset) -> list[dict]:
    """The annotations as predictions."""
    samples = []
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        boxes = torch.tensor([each['bbox'] for each in info['instances']])
        labels = torch.tensor([each['bbox_label'] for each in info['instances']])
        predictions = dict(bboxes=boxes, labels=labels, scores=torch.ones(len(labels)))
        shape = (info['height'], info['width'])
        samples.append(dict(img_id=info['img_id'], ori_shape=shape, pred_instances=predictions))
    return samples


def test_a_metric_without_a_file_takes_that_of_the_data(toy_cmr):
    broken = toy_cmr.content['annotations'][0]
    broken['bbox'][3] = 0  # as in published files; neither trained on nor evaluated
    toy_cmr.save()
    dataset = build(toy_cmr)
    assert dataset.metainfo['ann_file'] == str(toy_cmr.root / 'val.json')
    metric = METRICS.build(dict(type='FastCocoMetric', metric='bbox'))
    metric.dataset_meta = dataset.metainfo
    metric.process({}, perfect(toy_cmr, dataset))
    assert metric.evaluate(len(dataset))['coco/bbox_mAP'] == pytest.approx(1.0)


@pytest.mark.parametrize('classes', [('RV', 'LV', 'Myo'), ('LV', 'Aorta')])
def test_other_orders_and_names_than_the_files_are_refused(toy_cmr, classes):
    with pytest.raises(DatasetError, match=r"in the file: +\['LV'.*(?s:.*)use CMRDataset"):
        build(toy_cmr, classes)


def test_a_part_of_the_classes(toy_cmr):
    dataset = build(toy_cmr, ('LV', 'RV'))
    labels = {each['bbox_label'] for each in dataset.get_data_info(0)['instances']}
    assert labels == {0, 1} and dataset.metainfo['classes'] == ('LV', 'RV')
