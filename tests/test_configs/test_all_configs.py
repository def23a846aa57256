"""Each config that is shipped: whole, of the published shape, and able to train and to find.

Configs of MMSegmentation (`default_scope='mmseg'`) and U-Nets of MONAI have tests of their own. A
segmentor for the data sets of detectors trains and finds here, and is checked for all else in
test_mmseg_pixel_classifier.
"""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path

import mmdet
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, init_default_scope
from small_configs import QuickRunner, scaled_down, toy_data

from swin_ext.config import finalise_config

CONFIGS = Path(__file__).parents[2] / 'configs'
UPSTREAM = Path(mmdet.__file__).parent / '.mim/configs'
PATHS = {
    str(path.relative_to(CONFIGS)): path
    for path in sorted(CONFIGS.rglob('*.py'))
    if not {'_base_', 'upernet', 'unet'}.intersection(path.parts)
    or path.name == 'upernet_swin-nano_instances-cmr.py'
}
DETECTORS = [name for name in PATHS if not name.startswith('upernet/')]


@functools.cache
def _read(path: Path) -> Config:
    return Config.fromfile(path)


def read(name: str) -> Config:
    return copy.deepcopy(_read(PATHS[name]))


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> dict[str, Path]:
    return toy_data(tmp_path_factory.mktemp('data'))


@pytest.mark.parametrize('name', PATHS)
def test_it_trains_and_finds(name, data, tmp_path):
    cfg = scaled_down(read(name), data, tmp_path)
    runner = QuickRunner.from_cfg(cfg)
    model = runner.model
    before = {k: v.detach().clone() for k, v in model.named_parameters() if v.requires_grad}
    found = []
    predict = model.val_step
    model.val_step = lambda batch: found.append(predict(batch)) or found[-1]
    runner.train()
    assert runner.iter == runner.max_iters >= 1
    moved = [k for k, v in model.named_parameters() if k in before and not v.equal(before[k])]
    assert len(moved) > len(before) / 2
    samples = [sample for batch in found for sample in batch]
    assert len(samples) == 2
    for sample in samples:
        instances = sample.pred_instances
        assert len(instances) and instances.bboxes.isfinite().all()
        assert tuple(instances.masks.shape[1:]) == tuple(sample.ori_shape)


# In full size


def in_full_size(model: dict) -> torch.nn.Module:
    """On the device of shapes, but for backbones that look at numbers: mmdet's Swin, and V2."""
    init_default_scope('mmdet')
    looks = model.backbone.type == 'SwinTransformer' or 'v2' in model.backbone.get('arch', '')
    with torch.device('cpu' if looks else 'meta'):
        return MODELS.build(finalise_config(Config(dict(model=model, default_scope='mmdet'))).model)


@pytest.mark.parametrize('name', [name for name in DETECTORS if '1x' not in name])  # as their 3x
def test_backbone_and_head_fit_in_full_size(name):
    cfg = read(name)
    model = in_full_size(cfg.model).eval()
    device = next(model.parameters()).device
    with torch.no_grad():
        maps = model.extract_feat(torch.zeros(1, 3, 64, 96, device=device))
    assert [tuple(each.shape[2:]) for each in maps][:4] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    if cfg.model.type != 'Mask2Former':
        channels = {each.shape[1] for each in maps}
        assert channels == {cfg.model.rpn_head.in_channels}


def shapes(model: torch.nn.Module) -> dict[str, tuple]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize(
    'ours, theirs',
    [
        ('swin-t_fpn_amp-ms-crop-3x', 'swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
        ('swin-s_fpn_amp-ms-crop-3x', 'swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py'),
        ('swin-t_fpn_amp-1x', 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py'),
        ('r50_fpn_amp-1x', 'mask_rcnn/mask-rcnn_r50_fpn_amp-1x_coco.py'),
        ('r50_fpn_amp-ms-3x', 'mask_rcnn/mask-rcnn_r50_fpn_ms-poly-3x_coco.py'),
    ],
)
def test_published_recipes(ours, theirs):
    """Weights of mmdet's own fit by name and shape, and data, optimizer and schedule are its."""
    ours, theirs = read(f'mask_rcnn/mask_rcnn_{ours}_coco.py'), Config.fromfile(UPSTREAM / theirs)
    assert shapes(in_full_size(ours.model)) == shapes(in_full_size(theirs.model))
    for key in ('lr', 'betas', 'momentum', 'weight_decay', 'type'):
        assert ours.optim_wrapper.optimizer.get(key) == theirs.optim_wrapper.optimizer.get(key)
    if 'swin' in theirs.model.backbone.type.lower():
        kept = ('drop_path_rate', 'init_cfg')
        assert all(ours.model.backbone[key] == theirs.model.backbone[key] for key in kept)
    dataset, times = theirs.train_dataloader.dataset, 1
    if dataset.type == 'RepeatDataset':
        dataset, times = dataset.dataset, dataset.times
    assert without_backend(ours.train_dataloader.dataset.pipeline) == without_backend(
        dataset.pipeline
    )
    assert ours.train_dataloader.dataset.filter_cfg == dataset.filter_cfg
    assert ours.train_dataloader.batch_size == theirs.train_dataloader.batch_size == 2
    assert ours.max_epochs == theirs.train_cfg.max_epochs * times
    (schedule,), (warmup, steps) = ours.param_scheduler, theirs.param_scheduler
    milestones = [fraction * ours.max_epochs for fraction in schedule.milestones]
    assert milestones == pytest.approx([each * times for each in steps.milestones])
    assert schedule.gamma == steps.get('gamma', 0.1)
    iterations = schedule.warmup * ours.max_epochs * 7330
    assert iterations == pytest.approx(1000, rel=0.01)
    assert warmup.end == (1000 if 'Swin' in theirs.model.backbone.type else 500)


def without_backend(pipeline) -> list:
    """Without what says nothing: polygons become masks as they are loaded, or as they are used."""
    steps = json.loads(json.dumps(ConfigDict(steps=pipeline).to_dict()['steps']))
    for step in steps:
        step.pop('backend_args', None)
        step.pop('poly2mask', None)
    return steps


@pytest.mark.parametrize(
    'name, millions',
    [
        ('mask_rcnn/mask_rcnn_swin-t_fpn_amp-ms-crop-3x_coco.py', 48),
        ('mask_rcnn/mask_rcnn_swin-s_fpn_amp-ms-crop-3x_coco.py', 69),
        ('cascade_rcnn/cascade_mask_rcnn_swin-s_fpn_amp-ms-crop-3x_coco.py', 107),
        ('cascade_rcnn/cascade_mask_rcnn_swin-b_fpn_amp-ms-crop-3x_coco.py', 145),
    ],
)
def test_parameters_as_microsoft_counts_them(name, millions):
    """https://github.com/SwinTransformer/Swin-Transformer-Object-Detection, README."""
    total = sum(parameter.numel() for parameter in in_full_size(read(name).model).parameters())
    assert round(total / 1e6) == millions
