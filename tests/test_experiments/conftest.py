"""A phantom of six patients, and configs that train on it in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from swin_ext.conversion.phantom_command import main as make_phantom
from swin_ext.experiments import runs, worker

CONFIGS = Path(__file__).parents[2] / 'configs'
TINY = f"""
_base_ = [{str(CONFIGS / 'mask_rcnn_swin-nano_cmr.py')!r}]
image_scale = (64, 64)
max_epochs = 1
load_from = None
model = dict(
    backbone=dict(
        arch=dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1)), out_indices=(0, 1)),
    neck=dict(in_channels=[8, 16], out_channels=16, num_outs=3),
    rpn_head=dict(
        in_channels=16, feat_channels=16, anchor_generator=dict(strides=[4, 8, 16])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[4, 8], out_channels=16),
        mask_roi_extractor=dict(featmap_strides=[4, 8], out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_head=dict(in_channels=16, conv_out_channels=16)))
custom_hooks = [dict(type='ClassCheckHook')]
optim_wrapper = dict(optimizer=dict(lr=3e-3))
log_level = 'ERROR'
"""
TINY_UNET = f"""
_base_ = [{str(CONFIGS / 'unet' / 'unet_monai-basic_cmr.py')!r}]
image_scale = (64, 64)
max_epochs = 3
model = dict(network_args=dict(features=(4, 4, 8, 8, 16, 4)))
custom_hooks = [dict(type='ClassCheckHook')]
optim_wrapper = dict(optimizer=dict(lr=3e-2))
log_level = 'ERROR'
"""


@pytest.fixture(scope='session')
def phantom(tmp_path_factory) -> Path:
    """Data root: four patients to train, two to validate, seven or eight slices each."""
    out = tmp_path_factory.mktemp('experiments') / 'phantom'
    sizes = ['--patients', '6', '--size', '64', '--slice-gap-mm', '20', '--val-fraction', '0.34']
    make_phantom(['--out', str(out), *sizes])
    return out


@pytest.fixture
def tiny_config(tmp_path) -> Path:
    path = tmp_path / 'tiny.py'
    path.write_text(TINY)
    return path


@pytest.fixture
def tiny_unet(tmp_path) -> Path:
    """Quicker than a detector, and finds something after a few iterations."""
    path = tmp_path / 'tiny_unet.py'
    path.write_text(TINY_UNET)
    return path


class Launches(list):
    """Names of the runs that were launched, in this process: imports take longer than all else.

    Attributes:
        interrupted: Name of a run that ends after its training instead of being tested.
    """

    interrupted = None

    def launch(self, folder: Path, launcher: str, weights: str) -> None:
        self.append(folder.name)
        if folder.name == self.interrupted:
            worker.build(folder, folder, launcher, 'train').train()
            raise KeyboardInterrupt
        worker.run(folder, launcher, weights)


@pytest.fixture
def launches(monkeypatch) -> Launches:
    launches = Launches()
    monkeypatch.setattr(runs, 'launch', launches.launch)
    return launches
