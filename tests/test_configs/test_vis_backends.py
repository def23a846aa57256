"""Where a run is logged to, by one line."""

from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS

NANO = Path(__file__).parents[2] / 'configs/mask_rcnn_swin-nano_cmr.py'


def test_tensorboard_by_default():
    types = [backend.type for backend in Config.fromfile(NANO).visualizer.vis_backends]
    assert types == ['LocalVisBackend', 'TensorboardVisBackend']


@pytest.mark.parametrize('name', ['WandbVisBackend', 'MLflowVisBackend', 'AimVisBackend'])
def test_another_one_by_a_cfg_option(name):
    cfg = Config.fromfile(NANO)
    cfg.merge_from_dict({'visualizer.vis_backends.1.type': name})
    local, other = cfg.visualizer.vis_backends
    assert local.type == 'LocalVisBackend' and other == dict(type=name)
    assert VISBACKENDS.get(name).__module__ == 'mmengine.visualization.vis_backend'


@pytest.mark.parametrize('name', ['WandbVisBackend', 'MLflowVisBackend', 'AimVisBackend'])
def test_one_more_by_a_line_of_a_config(name, tmp_path):
    (tmp_path / 'mine.py').write_text(
        f'_base_ = [{str(NANO)!r}]\n'
        "visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), "
        f"dict(type='TensorboardVisBackend'), dict(type='{name}')])\n"
    )
    visualizer = Config.fromfile(tmp_path / 'mine.py').visualizer
    assert visualizer.type == 'DetLocalVisualizer'
    assert [backend.type for backend in visualizer.vis_backends][1:] == [
        'TensorboardVisBackend',
        name,
    ]
