"""Annotation files of any content: figures, or one of the package's own errors."""

from __future__ import annotations

import copy
import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cmr_metric import CLASSES, Study

from swin_ext.evaluation import CMRMetric, FastCocoMetric
from swin_ext.utils.errors import UserError

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.integers(-3, 100),
        st.floats(),
        st.text(max_size=6),
        st.integers(-3, 100).map(str),
    ),
    lambda parts: st.one_of(
        st.lists(parts, max_size=4), st.dictionaries(st.text(max_size=4), parts, max_size=3)
    ),
    max_leaves=8,
)


def places(content, path=()):
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


@pytest.fixture(scope='module')
def study(tmp_path_factory):
    """One slice at ED and one at ES of a patient, with predictions that are right."""
    study = Study(tmp_path_factory.mktemp('random'))
    kept = [study.ids('a', 'ED')[0], study.ids('a', 'ES')[0]]
    content = study.content
    content['info'] = dict(study_warnings=dict(a=['a gap']))
    content['images'] = [image for image in content['images'] if image['id'] in kept]
    content['annotations'] = [a for a in content['annotations'] if a['image_id'] in kept]
    study.pred = {image_id: study.pred[image_id] for image_id in kept}
    study.path.write_text(json.dumps(content))
    for metric in metrics(study, 'error'):  # what is loaded but once takes its time here
        metric.process({}, study.samples())
        assert metric.evaluate(2)
    return study


def metrics(study, invalid):
    for metric in (CMRMetric(), FastCocoMetric(metric=['bbox', 'segm'])):
        metric.dataset_meta = dict(classes=CLASSES, ann_file=str(study.path), invalid=invalid)
        yield metric


def check(study, data):
    content = copy.deepcopy(study.content)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(content))))
        place = content
        for key in parents:
            place = place[key]
        if data.draw(st.integers(0, 3)):
            place[last] = data.draw(VALUES)
        else:
            del place[last]
    study.path.write_text(json.dumps(content))
    invalid = data.draw(st.sampled_from(['error', 'skip']))
    for metric in metrics(study, invalid):
        try:
            metric.process({}, study.samples())
            figures = metric.evaluate(2)
        except UserError as error:
            assert str(error)
            continue
        assert list(figures) == metric.metric_names()
        for name, value in figures.items():
            if 'dice' in name or 'jaccard' in name:
                assert 0 <= value <= 1 or math.isnan(value)
            elif 'AP' in name:
                assert 0 <= value <= 1.0001 or value == -1


RANDOM = dict(deadline=5000, suppress_health_check=list(HealthCheck))


@settings(max_examples=200, **RANDOM)
@given(data=st.data())
def test_any_field_ends_in_figures_or_the_error(study, data):
    check(study, data)


@pytest.mark.slow
@settings(max_examples=2000, **RANDOM)
@given(data=st.data())
def test_any_field_ends_in_figures_or_the_error_slow(study, data):
    check(study, data)
