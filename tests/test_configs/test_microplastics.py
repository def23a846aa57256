"""Microplastics: COCO's weights but for the classes, led by the validation loss."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, PARAM_SCHEDULERS
from small_configs import AtTheStart, QuickRunner, coco_names, scaled_down, toy_data
from torchvision.models.detection import maskrcnn_resnet50_fpn

from swin_ext.models.weights.torchvision_detectors import convert_torchvision_detector

CONFIG = Path(__file__).parents[2] / 'configs/mask_rcnn/mask_rcnn_r50_microplastics.py'


@pytest.fixture(scope='module')
def cfg() -> Config:
    return Config.fromfile(CONFIG)


def test_a_training_from_coco_weights(cfg, tmp_path):
    small = scaled_down(cfg.copy(), toy_data(tmp_path), tmp_path / 'run')
    coco = copy.deepcopy(small.model)
    for head in (coco.roi_head.bbox_head, coco.roi_head.mask_head):
        head.num_classes = 80
    torch.manual_seed(0)
    weights = MODELS.build(dict(coco, _scope_='mmdet')).state_dict()
    meta = dict(CLASSES=coco_names())  # as mmdet 2 wrote it
    torch.save(dict(state_dict=weights, meta=meta), tmp_path / 'coco.pth')
    small.merge_from_dict(
        {
            'load_from': str(tmp_path / 'coco.pth'),
            'max_epochs': 2,
            'custom_hooks': [
                *(hook for hook in cfg.custom_hooks if hook.type != 'BestCheckpointHook'),
                dict(type='BestCheckpointHook', **cfg.best),
                dict(type='BestCheckpointHook', metric='val/loss'),  # is a figure, too
            ],
            'visualizer.vis_backends': [dict(type='LocalVisBackend')],
        }
    )
    runner = QuickRunner.from_cfg(small)
    start = AtTheStart()
    runner.register_hook(start)
    runner.train()

    fresh = {name for name in weights if start.weights[name].shape != weights[name].shape}
    assert {name.rpartition('.')[0] for name in fresh} == CLASS_LAYERS
    for name in set(weights) - fresh:
        assert torch.equal(start.weights[name], weights[name]), name

    scalars = max(Path(runner.work_dir).glob('2*/vis_data/scalars.json'))
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    validations = [r for r in records if 'val/loss' in r]
    assert [r['step'] for r in validations] == [1, 2]  # of an iteration each epoch
    assert all(r['val/loss_mask'] > 0 and 'coco/segm_Film_precision' in r for r in validations)
    for name in ('coco_segm_mAP_50', 'val_loss'):
        assert list(Path(runner.work_dir).glob(f'best_{name}_iter_*.pth'))
    assert not any(key.startswith('cmr/') for r in validations for key in r)


CLASS_LAYERS = {
    'roi_head.bbox_head.fc_cls',
    'roi_head.bbox_head.fc_reg',
    'roi_head.mask_head.conv_logits',
}


def test_torchvisions_file_fits_but_for_the_classes(cfg):
    """Names and shapes of its module."""
    with torch.device('meta'):
        peer = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
        model = copy.deepcopy(cfg.model)
        for head in (model.roi_head.bbox_head, model.roi_head.mask_head):
            head.num_classes = cfg.num_classes
        model = MODELS.build(dict(model, _scope_='mmdet'))
    theirs = convert_torchvision_detector(peer.state_dict())
    ours = model.state_dict()
    assert set(theirs) == set(ours)
    others = {name for name in theirs if theirs[name].shape != ours[name].shape}
    assert {name.rpartition('.')[0] for name in others} == CLASS_LAYERS


LOSSES = [3.0, 2.0, 2.1, 2.1, 2.1, 2.1, 2.1, 2.1, 1.9] + 12 * [1.95]


def test_the_learning_rate_falls_as_pytorchs_plateau(cfg):
    def optimizer():
        parameters = [torch.nn.Parameter(torch.zeros(1))]
        return torch.optim.SGD(parameters, cfg.optim_wrapper.optimizer.lr)

    (schedule,) = cfg.param_scheduler
    ours, theirs = optimizer(), optimizer()
    scheduler = PARAM_SCHEDULERS.build(dict(schedule, optimizer=ours))
    peer = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, 'min', factor=0.1, patience=5)
    rates = []
    for loss in LOSSES:
        scheduler.step({'val/loss': loss})
        peer.step(loss)
        rates.append(ours.param_groups[0]['lr'])
        assert rates[-1] == pytest.approx(theirs.param_groups[0]['lr'])
    assert sorted(set(rates), reverse=True) == pytest.approx([1e-3, 1e-4, 1e-5, 1e-6])


def test_it_ends_after_ten_validations_that_are_not_better(cfg):
    hook = HOOKS.build(cfg.default_hooks.early_stopping)
    loop = SimpleNamespace(stop_training=False)
    hub = SimpleNamespace(update_info=lambda *_: None)
    logger = SimpleNamespace(info=lambda *_: None)
    runner = SimpleNamespace(train_loop=loop, message_hub=hub, logger=logger, iter=1)
    stopped = []
    for loss in LOSSES:
        hook.after_val_epoch(runner, {'val/loss': loss})
        stopped.append(loop.stop_training)
    assert stopped.index(True) == LOSSES.index(1.9) + 10


def test_values_that_were_asked_for(cfg):
    assert cfg.metainfo.classes == ('Fiber', 'Fragment', 'Film')
    assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4)
    assert cfg.optim_wrapper.clip_grad.max_norm == 1.0
    assert (cfg.train_dataloader.batch_size, cfg.max_epochs) == (2, 50)
    assert cfg.best.metric == 'coco/segm_mAP_50'
