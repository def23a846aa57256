"""What `CMRDataset` makes of annotation files that are odd, and of images without annotations."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS
from test_cmr import PIPELINE, build, build_with_log

from swin_ext.datasets import DatasetError
from swin_ext.utils.errors import UserError
from toy_cmr import ToyCMR


def test_errors_are_those_of_the_package(toy_cmr):
    assert issubclass(DatasetError, UserError) and issubclass(DatasetError, ValueError)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(bbox=[math.nan, 10, 20, 5]), r'annotation 5 \(image 2, slice_2.png\): bbox\[0\]'),
        (dict(segmentation=[[3e8, 1, 2, 3, 4, 5]]), 'annotation 5 .*far outside'),
        (dict(segmentation=None), 'annotation 5 .*has no segmentation'),
        (dict(segmentation=[]), 'annotation 5 .*has no segmentation'),
    ],
)
def test_what_would_have_reached_training_is_refused(toy_cmr, change, message, caplog):
    toy_cmr.content['annotations'][4].update(change)
    toy_cmr.save()
    with pytest.raises(DatasetError, match=message):
        build(toy_cmr)
    dataset, log = build_with_log(toy_cmr, caplog, invalid='skip')
    assert [len(dataset.get_data_info(i)['instances']) for i in range(4)] == [3, 2, 3, 3]
    assert '1 invalid entries' in log and 'annotation 5' in log


def test_boxes_alone_need_no_masks(toy_cmr):
    for annotation in toy_cmr.content['annotations']:
        del annotation['segmentation']
    toy_cmr.save()
    boxes = [PIPELINE[0], dict(type='LoadAnnotations', with_bbox=True), PIPELINE[2]]
    assert len(build(toy_cmr, pipeline=boxes)[0]['data_samples'].gt_instances.bboxes) == 3
    with pytest.raises(DatasetError, match='12 invalid entries(?s:.*)no segmentation'):
        build(toy_cmr)


def test_repairs_are_counted(toy_cmr, caplog):
    for image in toy_cmr.content['images']:
        image['width'] = 64.0
    for annotation in toy_cmr.content['annotations']:
        annotation['image_id'] = str(annotation['image_id'])
    toy_cmr.save()
    dataset, log = build_with_log(toy_cmr, caplog)
    assert dataset.get_data_info(0)['width'] == 64 and dataset[0] is not None
    assert 'repaired without loss' in log
    assert 'images: width' in log and '(4 times)' in log and '(12 times)' in log


@pytest.mark.parametrize(
    'file_name',
    ['../slice_2.png', 'a/../../slice_2.png', '/etc/hostname', 's3://bucket/a.png', '..\\a.png']
    + ['C:\\a.png'],
)
def test_images_outside_of_their_folder_need_permission(toy_cmr, file_name):
    toy_cmr.content['images'][1]['file_name'] = file_name
    toy_cmr.save()
    with pytest.raises(DatasetError, match='1 images lie outside .*first is image 2'):
        build(toy_cmr, invalid='skip')


def test_images_outside_of_their_folder_with_permission(toy_cmr):
    outside = toy_cmr.root / 'slice_2.png'
    (toy_cmr.root / 'images/slice_2.png').rename(outside)
    for file_name in ('../slice_2.png', str(outside)):
        toy_cmr.content['images'][1]['file_name'] = file_name
        toy_cmr.save()
        assert build(toy_cmr, allow_outside=True)[1] is not None


def test_links_in_the_image_folder_are_followed(toy_cmr):
    path = toy_cmr.root / 'images/slice_2.png'
    path.rename(toy_cmr.root / 'elsewhere.png')
    path.symlink_to(toy_cmr.root / 'elsewhere.png')
    assert build(toy_cmr)[1] is not None


@pytest.mark.parametrize('invalid', ['error', 'skip'])
def test_all_images_missing_is_one_error(toy_cmr, invalid):
    with pytest.raises(DatasetError, match='none of its 4 images exists') as error:
        build(toy_cmr, data_prefix=dict(img='imgs/'), invalid=invalid)
    text = str(error.value)
    assert str(toy_cmr.root / 'imgs/slice_1.png') in text and 'slice_2' not in text
    assert f'the folder {toy_cmr.root} is there' in text and 'Check data_root' in text


def test_missing_file_says_what_is_there(toy_cmr):
    with pytest.raises(DatasetError, match='JSON files in its folder: train.json, val.json'):
        build(toy_cmr, ann_file='trian.json')


@pytest.mark.parametrize('key', ['filter_empty', 'minsize', 'bbox_min_size'])
def test_unknown_filter(toy_cmr, key):
    with pytest.raises(DatasetError, match=f"filter_cfg has \\['{key}'\\](?s:.*)did you mean"):
        build(toy_cmr, filter_cfg={key: 1})


@pytest.mark.parametrize('classes', [(), ('LV', 'LV')])
def test_classes_are_different_names(toy_cmr, classes):
    with pytest.raises(DatasetError, match='must be different names, at least one'):
        build(toy_cmr, metainfo=dict(classes=classes))


@pytest.mark.parametrize(
    'arguments, kept',
    [
        (dict(test_mode=True), True),
        (dict(test_mode=True, filter_cfg=dict(filter_empty_gt=True)), True),
        (dict(), True),
        (dict(filter_cfg=dict(filter_empty_gt=False)), True),
        (dict(filter_cfg=dict(filter_empty_gt=True)), False),
    ],
)
def test_images_without_annotations_are_negatives(toy_cmr, arguments, kept):
    toy_cmr.content['annotations'] = [
        a for a in toy_cmr.content['annotations'] if a['image_id'] != 2
    ]
    toy_cmr.save()
    dataset = build(toy_cmr, **arguments)
    ids = [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))]
    assert ids == ([1, 2, 3, 4] if kept else [1, 3, 4])
    if kept:
        instances = dataset[1]['data_samples'].gt_instances
        assert instances.masks.masks.shape == (0, 48, 64) and len(instances.bboxes) == 0


WRAPPERS = [
    lambda load: load,
    lambda load: dict(type='RandomChoice', transforms=[[load]]),
    lambda load: dict(type='RandomApply', transforms=[load], prob=1.0),
    lambda load: dict(type='KeyMapper', transforms=[load]),
    lambda load: dict(
        type='RandomChoice',
        transforms=[[dict(type='RandomApply', transforms=[load], prob=1.0)]],
    ),
]


@pytest.mark.parametrize('wrap', WRAPPERS)
def test_neighbours_are_found_for_transforms_in_wrappers(toy_cmr, wrap):
    for i, image in enumerate(toy_cmr.content['images']):
        image.update(patient_id='P1', slice=i, phase='ED')
    toy_cmr.save()
    load = dict(type='LoadCMRImage', window='study', channels='slices')
    dataset = build(toy_cmr, pipeline=[wrap(load), *PIPELINE[1:]])
    assert [number for number, _ in dataset.get_data_info(1)['stack']] == [0, 1, 2, 3]
    assert dataset[1]['inputs'].shape == (3, 48, 64)


@dataclass(frozen=True)
class ToyPreprocessing:
    """As the package's own: two windows one after the other are refused."""

    window: str | None = None

    @classmethod
    def from_dict(cls, content):
        return cls(**content)

    def after(self, earlier):
        if self.window and earlier.window:
            raise ToyError('two windows')
        return self


class ToyError(UserError, ValueError):
    pass


@TRANSFORMS.register_module(force=True)
class ToyLoad(BaseTransform):
    def __init__(self, window=None):
        self.preprocessing = ToyPreprocessing(window)

    def transform(self, results):
        results['img'] = np.zeros((48, 64, 3), np.uint8)
        results['img_shape'] = results['ori_shape'] = (48, 64)
        return results


@pytest.mark.parametrize('stored', [None, 'study'])
@pytest.mark.parametrize('window', [None, 'slice'])
@pytest.mark.parametrize('wrap', WRAPPERS[:2])
def test_images_are_windowed_once(toy_cmr, stored, window, wrap):
    toy_cmr.content['info'] = dict(preprocessing=dict(window=stored))
    toy_cmr.save()
    pipeline = [wrap(dict(type='ToyLoad', window=window)), *PIPELINE[1:]]
    if stored and window:
        with pytest.raises(DatasetError, match='contradicts ToyLoad') as error:
            build(toy_cmr, pipeline=pipeline)
        assert 'train.json' in str(error.value)
        assert "{'window': 'study'}" in str(error.value) and "window='slice'" in str(error.value)
    else:
        dataset = build(toy_cmr, pipeline=pipeline)
        assert dataset.metainfo['preprocessing'] == dict(window=stored)


def test_files_without_preprocessing_say_nothing(toy_cmr):
    assert 'preprocessing' not in build(toy_cmr).metainfo


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6)),
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
def toy(tmp_path_factory):
    toy = ToyCMR(tmp_path_factory.mktemp('random') / 'toy', num_images=2)
    for i, image in enumerate(toy.content['images']):
        image.update(patient_id='P1', slice=i, phase='ED', spacing_mm=[1.2, 1.2])
    toy.content['info'] = dict(preprocessing=dict(window=None))
    toy.save()
    build(toy)  # what is loaded but once takes its time here
    return toy


def check_any_field(toy, data):
    content = json.loads((toy.root / 'val.json').read_text())
    *parents, last = data.draw(st.sampled_from(list(places(content))))
    place = content
    for key in parents:
        place = place[key]
    place[last] = data.draw(JSON)
    toy.json_path.write_text(json.dumps(content))
    for invalid in ('error', 'skip'):
        try:
            dataset = build(toy, invalid=invalid)
            samples = [dataset[i]['data_samples'] for i in range(len(dataset))]
        except UserError:
            continue
        for sample in samples:
            boxes = sample.gt_instances.bboxes.tensor
            assert boxes.isfinite().all() and len(boxes) == len(sample.gt_instances.masks)


# Each builds two data sets; tests/test_coco/test_reading.py has more examples and a deadline.
RANDOM = dict(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(max_examples=30, **RANDOM)
@given(data=st.data())
def test_any_field_ends_in_a_data_set_or_the_error(toy, data):
    check_any_field(toy, data)


@pytest.mark.slow
@settings(max_examples=2000, **RANDOM)
@given(data=st.data())
def test_any_field_ends_in_a_data_set_or_the_error_slow(toy, data):
    check_any_field(toy, data)
