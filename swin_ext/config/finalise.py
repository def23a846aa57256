"""The one way from what a config says to what a runner is built from."""

from __future__ import annotations

import os
from typing import Any

from swin_ext.config.errors import ConfigError
from swin_ext.config.families import set_num_classes
from swin_ext.config.keys import key_problems, top_level_problems
from swin_ext.config.named_parts import place_named_parts
from swin_ext.config.shared_values import (
    set_annotation_index,
    set_data_root,
    set_image_scale,
    set_length,
)

HAND_ON = (set_data_root, set_annotation_index, set_image_scale, set_length, set_num_classes)


def finalise_config(cfg: Any) -> Any:
    """Check a config, and hand its shared values on to the places that depend on them.

    Variables of a text config are resolved before `--cfg-options` is merged, so a value given
    there would not reach the places that were written in terms of it; here the config is complete.
    What it names by `type` must be registered (`import swin_ext.registration`). Doing it again
    changes nothing.

    Args:
        cfg: An `mmengine.config.Config`, changed in place.

    Returns:
        `cfg`.

    Raises:
        ConfigError: With all that is wrong: keys that nothing reads, parts without a type or of an
            unknown one, values out of range, and values that contradict each other.
    """
    problems = [*top_level_problems(cfg), *place_named_parts(cfg), *key_problems(cfg)]
    if not problems:
        for hand_on in HAND_ON:
            problems += hand_on(cfg)
    if problems:
        raise ConfigError(problems, getattr(cfg, 'filename', None))
    _set_mlflow_store(cfg)
    return cfg


def _set_mlflow_store(cfg: Any) -> None:
    """Let MLflow write a data base and files beside `work_dir`, unless told where.

    MMEngine asks it for a store of files, which MLflow 3 refuses, and passes over its environment
    variable. Not inside of `work_dir`, whose files it copies.
    """
    visualizer, work_dir = cfg.get('visualizer'), cfg.get('work_dir')
    backends = visualizer.get('vis_backends') if isinstance(visualizer, dict) else None
    for backend in backends or ():
        if backend.get('type') != 'MLflowVisBackend' or backend.get('tracking_uri'):
            continue
        if os.environ.get('MLFLOW_TRACKING_URI'):
            backend['tracking_uri'] = os.environ['MLFLOW_TRACKING_URI']
        elif work_dir:
            folder, name = os.path.split(os.path.abspath(work_dir))
            backend['tracking_uri'] = f'sqlite:///{folder}/mlflow.db'
            # MLflow's 'Default' would put files into the folder where the run was started.
            backend.setdefault('exp_name', name)
            backend.setdefault('artifact_location', f'{folder}/mlflow/{name}')
