"""Both metrics on two processes, whose sampler pads the last batch with an image seen before."""
from __future__ import annotations

import multiprocessing
import os
import socket

import numpy as np
import pytest
import torch.distributed as dist
from test_cmr_metric import CLASSES, Study

from swin_ext.evaluation import FastCocoMetric


@pytest.fixture
def study(tmp_path):
    study = Study(tmp_path)
    for image_id, masks in study.pred.items():
        masks['LV'] = np.roll(masks['LV'], image_id % 3, axis=1)
    for image in study.content['images'][:1]:  # nine images: an odd number
        study.content['images'].remove(image)
        study.content['annotations'] = [
            a for a in study.content['annotations'] if a['image_id'] != image['id']]
        del study.pred[image['id']]
    return study


def metrics(study):
    coco = FastCocoMetric(metric='segm', classwise=True)
    coco.dataset_meta = dict(classes=CLASSES, ann_file=str(study.path))
    return [study.metric(), coco]


def run_rank(rank, port, study, samples, queue):
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    figures = {}
    for metric in metrics(study):
        for sample in samples:
            metric.process({}, [sample])
        figures.update(metric.evaluate(9))
    queue.put((rank, figures))
    dist.destroy_process_group()


def test_two_processes_have_the_figures_of_one(study):
    samples = study.samples()
    expected = {}
    for metric in metrics(study):
        metric.process({}, samples)
        expected.update(metric.evaluate(len(samples)))

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context('fork')
    queue = context.Queue()
    shares = samples[0::2], [*samples[1::2], samples[0]]  # of DefaultSampler
    processes = [context.Process(target=run_rank, args=(rank, port, study, shares[rank], queue))
                 for rank in (0, 1)]
    for process in processes:
        process.start()
    figures = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert figures[0].keys() == figures[1].keys() == expected.keys()
    for rank in (0, 1):
        for key, value in expected.items():
            assert figures[rank][key] == pytest.approx(value, nan_ok=True), key
    assert 0 < expected['cmr/LV_dice'] < 1 and 0 < expected['coco/segm_mAP'] < 1
