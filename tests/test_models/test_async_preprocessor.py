"""Images are preprocessed as by mmdet, and nothing is read or uploaded on the way."""

from __future__ import annotations

import warnings

import pytest
import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor

from host_reads import host_reads
from swin_ext.engine import SwinExtRunner
from swin_ext.models.async_preprocessor import AsyncDetDataPreprocessor
from toy_mask_rcnn import Slices

NORMALISE = dict(mean=[123.0, 116.0, 103.0], std=[58.0, 57.0, 56.0], pad_size_divisor=32)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def batch(stacked=False):
    samples = [Slices()[i] for i in range(3)]
    inputs = [sample['inputs'] for sample in samples]
    inputs = torch.stack(inputs) if stacked else [inputs[0], inputs[1][:, :40], inputs[2][..., :50]]
    return dict(inputs=inputs, data_samples=[sample['data_samples'] for sample in samples])


@pytest.mark.parametrize('device', ['cpu', pytest.param('cuda', marks=needs_cuda)])
@pytest.mark.parametrize('stacked', [False, True])
@pytest.mark.parametrize('order', [dict(bgr_to_rgb=True), dict(rgb_to_bgr=True), {}])
def test_values_are_mmdets(device, stacked, order):
    expected = DetDataPreprocessor(**NORMALISE, **order).to(device)(batch(stacked), True)
    own = AsyncDetDataPreprocessor(**NORMALISE, **order).to(device)(batch(stacked), True)
    assert torch.equal(own['inputs'], expected['inputs'])
    for a, b in zip(own['data_samples'], expected['data_samples']):
        assert a.metainfo == b.metainfo
        assert torch.equal(a.gt_instances.bboxes, b.gt_instances.bboxes)
    assert own['inputs'].std() > 0.1


@pytest.mark.parametrize(
    'kind, uploads', [(DetDataPreprocessor, True), (AsyncDetDataPreprocessor, False)]
)
def test_nothing_is_uploaded_by_the_way(kind, uploads):
    preprocessor = kind(**NORMALISE, bgr_to_rgb=True)
    with host_reads() as found:
        preprocessor(batch(), True)
    assert ('__getitem__' in {each.what for each in found}) == uploads


@needs_cuda
def test_pinned_images_are_copied_without_waiting():
    preprocessor = AsyncDetDataPreprocessor(**NORMALISE, bgr_to_rgb=True).cuda()
    data = batch()
    data['inputs'] = [image.pin_memory() for image in data['inputs']]
    torch.cuda.set_sync_debug_mode('error')
    try:
        preprocessor(data, True)
    finally:
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('has_cuda', [False, True])
@pytest.mark.parametrize('asked', [None, False, True])
def test_memory_is_pinned_where_there_is_a_gpu_to_pin_it_for(has_cuda, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: has_cuda)
    cfg = dict(dataset=Slices(), batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler'))
    if asked is not None:
        cfg['pin_memory'] = asked
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loader = SwinExtRunner.build_dataloader(cfg)
        if not has_cuda:
            next(iter(loader))
    assert loader.pin_memory == bool(asked and has_cuda)
    assert cfg.get('pin_memory') == asked
