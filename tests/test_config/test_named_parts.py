"""Hooks and loggers by a name."""

from __future__ import annotations

import copy

import pytest
from project import config

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import ConfigError, finalise_config
from swin_ext.config.named_parts import HOOKS, VIS_BACKENDS


def types_of(entries):
    return [entry['type'] for entry in entries]


def test_names_stand_for_the_entries_of_their_type():
    cfg = finalise_config(config(best__metric='cmr/dice', gpu_stats=None))
    assert types_of(cfg.custom_hooks) == [
        kind for name, kind in HOOKS.items() if name not in ('freeze', 'gpu_stats')
    ]
    (best,) = [hook for hook in cfg.custom_hooks if hook.type == 'BestCheckpointHook']
    assert best == dict(type='BestCheckpointHook', metric='cmr/dice')
    assert not set(HOOKS) & set(cfg)


def test_hook_that_is_missing_is_added_at_its_place():
    cfg = config(gpu_stats=None)
    before = types_of(finalise_config(copy.deepcopy(cfg)).custom_hooks)
    cfg.merge_from_dict({'freeze.schedule': [dict(at=0, frozen_stages=2)]})
    after = types_of(finalise_config(cfg).custom_hooks)
    assert [kind for kind in after if kind != 'BackboneFreezeHook'] == before
    assert after.index('BackboneFreezeHook') == after.index('BestCheckpointHook') - 1
    assert types_of(finalise_config(config(gpu_stats=True)).custom_hooks)[-1] == 'GPUStatsHook'


def test_lists_of_earlier_configs_work():
    hooks = [dict(type='BestCheckpointHook', metric='cmr/dice'), dict(type='HistoryHook')]
    cfg = finalise_config(config(custom_hooks=copy.deepcopy(hooks)))
    assert cfg.custom_hooks == hooks
    cfg.merge_from_dict({'best.metric': 'coco/bbox_mAP'})
    assert finalise_config(cfg).custom_hooks[0].metric == 'coco/bbox_mAP'
    assert (
        finalise_config(config(**{'custom_hooks.2.metric': 'cmr/dice'})).custom_hooks[2] == hooks[0]
    )


@pytest.mark.parametrize('value', [3, 'cmr/dice', [1]])
def test_variable_of_the_same_name_is_refused(value):
    cfg = config()
    cfg.best = value
    with pytest.raises(ConfigError, match='best: .* is no BestCheckpointHook'):
        finalise_config(cfg)


def test_two_entries_of_a_type_are_not_chosen_from():
    cfg = config(custom_hooks=[dict(type='HistoryHook'), dict(type='HistoryHook')], history=None)
    with pytest.raises(ConfigError, match=r'custom_hooks\.0 and custom_hooks\.1 are both'):
        finalise_config(cfg)


def test_loggers_by_name():
    cfg = finalise_config(config(tensorboard=None, **{'wandb.init_kwargs.project': 'cmr'}))
    assert cfg.visualizer.vis_backends == [
        dict(type='LocalVisBackend'),
        dict(type='WandbVisBackend', init_kwargs=dict(project='cmr')),
    ]
    assert {config().visualizer.vis_backends[1].type} < set(VIS_BACKENDS.values())


@pytest.mark.parametrize('how', ['visualizer.vis_backends.1.type', 'mlflow'])
def test_mlflow_gets_a_store_that_it_takes(how, tmp_path, monkeypatch):
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    value = True if how == 'mlflow' else 'MLflowVisBackend'
    options = {how: value, 'work_dir': str(tmp_path / 'runs/first')}
    (backend,) = [
        entry
        for entry in finalise_config(config(**options)).visualizer.vis_backends
        if entry.type == 'MLflowVisBackend'
    ]
    assert backend == dict(
        type='MLflowVisBackend',
        tracking_uri=f'sqlite:///{tmp_path}/runs/mlflow.db',
        exp_name='first',
        artifact_location=f'{tmp_path}/runs/mlflow/first',
    )
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://server')
    backend = finalise_config(config(**options)).visualizer.vis_backends[-1]
    assert backend == dict(type='MLflowVisBackend', tracking_uri='http://server')
