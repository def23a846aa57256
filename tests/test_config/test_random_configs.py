"""Configs of any content: finalised, or refused by the package's own error.

`python -m pytest -m slow tests/test_config/test_random_configs.py` tries ten times as many.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from project import SHIPPED, config
from test_keys import paths_of

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import ConfigError, finalise_config

NAMES = st.one_of(
    st.text(max_size=6),
    st.sampled_from(['type', 'num_classes', 'max_epochs', 'data_root', 'image_scale', '_delete_']),
    st.sampled_from(['model', 'train_cfg', 'dataset', 'pipeline', 'custom_hooks', '0', '']),
)
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 2000),
        st.sampled_from([0, -1, 1.5, 2**70, 1e308, math.nan, math.inf]),
        st.text(max_size=6),
        st.sampled_from(['SwinBackbone', 'MaskRCNN', 'AdamW', 'mmdet.ResNet', 'auto', '7']),
    ),
    lambda parts: st.one_of(
        st.lists(parts, max_size=4),
        st.lists(parts, max_size=4).map(tuple),
        st.dictionaries(NAMES, parts, max_size=4),
    ),
    max_leaves=10,
)


def all_paths(node, path=()):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        yield (*path, key)
        if isinstance(value, (dict, list, tuple)):
            yield from all_paths(value, (*path, key))


PATHS = {name: sorted(all_paths(config(name).to_dict()), key=str) for name in SHIPPED}
KEYS = {name: sorted(paths_of(config(name).to_dict()), key=str) for name in SHIPPED}


def put(content, path, value):
    """Content with another value at a place; tuples become lists."""
    key, *rest = path
    new = dict(content) if isinstance(content, dict) else list(content)
    new[key] = put(new[key], rest, value) if rest else value
    return new


def rename(content, path, name):
    """Content with another key at a place, and the value that was there."""
    key, *rest = path
    if rest:
        return put(content, [key], rename(content[key], rest, name))
    return {name if other == key else other: value for other, value in content.items()}


def without(content, path):
    key, *rest = path
    if rest:
        return put(content, [key], without(content[key], rest))
    if isinstance(content, dict):
        return {other: value for other, value in content.items() if other != key}
    return [value for i, value in enumerate(content) if i != key]


@pytest.fixture(scope='module', autouse=True)
def loaded():
    finalise_config(config())  # what is loaded but once takes its time here


def check(data):
    name = data.draw(st.sampled_from(SHIPPED))
    content = config(name).to_dict()
    how = data.draw(st.sampled_from(['value', 'value', 'key', 'absent']))
    path = data.draw(st.sampled_from((KEYS if how == 'key' else PATHS)[name]))
    if how == 'value':
        content = put(content, path, data.draw(VALUES))
    elif how == 'key':
        content = rename(content, path, data.draw(NAMES))
    else:
        content = without(content, path)
    cfg = Config(content)
    try:
        finalise_config(cfg)
    except ConfigError as error:
        assert error.problems and str(error)
        return
    once = cfg.to_dict()
    assert repr(finalise_config(cfg).to_dict()) == repr(once)


RANDOM = dict(deadline=5000, derandomize=True, suppress_health_check=list(HealthCheck))


@settings(max_examples=200, **RANDOM)
@given(data=st.data())
def test_any_config_is_finalised_or_refused(data):
    check(data)


@pytest.mark.slow
@settings(max_examples=2000, **RANDOM)
@given(data=st.data())
def test_any_config_is_finalised_or_refused_slow(data):
    check(data)
