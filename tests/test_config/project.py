"""Configs of each family of models, made of the pieces that a user would take."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path

from mmengine.config import Config

CONFIGS = Path(__file__).parents[2] / 'configs'
MODELS = ('mask_rcnn_r50_fpn', 'cascade_mask_rcnn_swin-s_fpn', 'mask2former_swin-t')
SHIPPED = ('mask_rcnn_swin-s_cmr', 'mask_rcnn_swin-nano_cmr', *MODELS)

COMPOSED = """
_base_ = [
    '{configs}/_base_/models/{model}.py',
    '{configs}/_base_/datasets/cmr_instance.py',
    '{configs}/_base_/runtime/cmr_runtime.py',
    '{configs}/_base_/schedules/adamw.py',
    '{configs}/_base_/schedules/one_cycle.py',
]
num_classes = 3
max_epochs = 12
train_cfg = dict(type='EpochTrainLoopWithIterVal', max_epochs=12, val_begin=1, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=_base_.adamw)
param_scheduler = _base_.one_cycle
"""


@functools.cache
def _read(name: str) -> Config:
    if name not in MODELS:
        return Config.fromfile(CONFIGS / f'{name}.py')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f'{name}.py'
        path.write_text(COMPOSED.format(configs=CONFIGS, model=name))
        return Config.fromfile(path)


def config(name: str = 'mask_rcnn_swin-nano_cmr', /, **options) -> Config:
    """A shipped config, or a model piece with the pieces around it, and `--cfg-options`."""
    cfg = copy.deepcopy(_read(name))
    cfg.merge_from_dict({key.replace('__', '.'): value for key, value in options.items()})
    return cfg
