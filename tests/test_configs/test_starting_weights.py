"""Weights of one model that another one starts from."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from small_configs import AtTheStart, QuickRunner, coco_names, scaled_down, toy_data

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_swin_b_starts_from_what_fits_of_the_published_cascade(tmp_path):
    data = toy_data(tmp_path)

    def small(name: str) -> Config:
        return scaled_down(Config.fromfile(CONFIGS / f'{name}.py'), data, tmp_path / 'run')

    cfg = small('cascade_rcnn/cascade_mask_rcnn_swin-b_fpn_amp-ms-crop-3x_coco')
    torch.manual_seed(0)
    weights = QuickRunner.from_cfg(cfg).model.state_dict()
    torch.save(dict(state_dict=weights, meta=dict(CLASSES=coco_names())), tmp_path / 'coco.pth')
    ours = small('mask_rcnn/mask_rcnn_swin-b_cmr')
    ours.load_from = str(tmp_path / 'coco.pth')
    runner = QuickRunner.from_cfg(ours)
    start = AtTheStart()
    runner.register_hook(start)
    runner.train()
    shared = [k for k in start.weights if k.startswith(('backbone.', 'neck.', 'rpn_head.'))]
    assert {k for k in weights if not k.startswith('roi_head.')} == set(shared)
    for name in shared:
        assert torch.equal(start.weights[name], weights[name]), name
