"""Whatever is in an annotation file: it is read, or refused by name."""

from __future__ import annotations

import copy
import json
import math

import mmengine.logging  # noqa: F401  # imports torch, which is no part of an example's time
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from swin_ext.coco.errors import AnnotationError
from swin_ext.coco.masks import to_rle
from swin_ext.coco.reading import read_coco, read_coco_file
from swin_ext.utils.errors import UserError
from toy_cmr import disk, encode

HEIGHT, WIDTH = 48, 64


def sound_content() -> dict:
    """Three images, two with annotations: a mask as RLE, as runs, as polygon and none."""
    mask = disk(HEIGHT, WIDTH, 24, 36, 7)
    runs = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = np.diff(np.flatnonzero(np.diff(mask.ravel('F'), prepend=False)), prepend=0).tolist()
    counts.append(mask.size - sum(counts))
    box = mask_utils.toBbox(runs).tolist()
    segmentations = (
        encode(mask),
        dict(size=[HEIGHT, WIDTH], counts=counts),
        [[29, 17, 44, 17, 44, 32, 29, 32]],
        [],
    )
    return dict(
        info=dict(description='toy'),
        images=[
            dict(
                id=i + 1,
                file_name=f'slice_{i}.png',
                width=WIDTH,
                height=HEIGHT,
                patient_id=f'P{i // 2}',
                slice=i,
                phase='ED',
                frame=0,
                spacing_mm=[1.2, 1.2],
            )
            for i in range(3)
        ],
        annotations=[
            dict(
                id=i + 1,
                image_id=i // 2 + 1,
                category_id=10,
                bbox=list(box),
                area=225.0,
                iscrowd=0,
                segmentation=segmentation,
            )
            for i, segmentation in enumerate(segmentations)
        ],
        categories=[dict(id=10, name='LV'), dict(id=20, name='Myo')],
    )


def write(folder, content, name='file.json'):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def change(path: str, value):
    """Set a field, named by its path with dots; DELETE takes it away."""

    def apply(content):
        *parents, last = [int(key) if key.isdigit() else key for key in path.split('.')]
        for key in parents:
            content = content[key]
        if value is DELETE:
            del content[last]
        else:
            content[last] = value

    return apply


DELETE = object()


def test_a_sound_file_is_read_as_it_is(tmp_path):
    content = sound_content()
    file = read_coco_file(write(tmp_path, content))
    assert file.content == content and not file.repairs and not file.problems


REPAIRED = [
    ('images.0.width', 64.0, 64, 'images: width'),
    ('images.0.height', '48', 48, 'images: height'),
    ('images.0.id', '1', 1, 'images: id'),
    ('images.0.slice', '2.5', 2.5, 'images: slice'),
    ('images.0.frame', 3.0, 3, 'images: frame'),
    ('categories.0.id', '10', 10, 'categories: id'),
    ('annotations.0.id', '7', 7, 'annotations: id'),
    ('annotations.0.image_id', ' 1', 1, 'annotations: image_id'),
    ('annotations.0.category_id', 10.0, 10, 'annotations: category_id'),
    ('annotations.0.bbox', ['29', 17.0, '15.0', 15], [29, 17.0, 15.0, 15], 'annotations: bbox'),
    ('annotations.0.iscrowd', None, 0, 'annotations: iscrowd was missing'),
    ('annotations.0.iscrowd', DELETE, 0, 'annotations: iscrowd was missing'),
    ('annotations.0.iscrowd', True, 1, 'annotations: iscrowd'),
    ('annotations.0.iscrowd', '1', 1, 'annotations: iscrowd'),
    ('annotations.0.area', '225', 225, 'annotations: area'),
    ('annotations.0.segmentation.size', [48.0, '64'], [48, 64], 'annotations: segmentation'),
    (
        'annotations.2.segmentation',
        [['29', '17', '44', '17', '44', '32']],
        [[29, 17, 44, 17, 44, 32]],
        'annotations: segmentation',
    ),
]


@pytest.mark.parametrize('path, written, meant, what', REPAIRED)
def test_what_can_be_meant_in_one_way_only_is_repaired(tmp_path, path, written, meant, what):
    content, expected = sound_content(), sound_content()
    change(path, written)(content)
    change(path, meant)(expected)
    file = read_coco_file(write(tmp_path, content))
    # As text, in which 1, 1.0 and true differ.
    assert json.dumps(file.content, sort_keys=True) == json.dumps(expected, sort_keys=True)
    assert sum(file.repairs.values()) == 1 and next(iter(file.repairs)).startswith(what)


@pytest.mark.parametrize('written', [None, DELETE])
def test_missing_areas_are_those_of_the_masks(tmp_path, written):
    content = sound_content()
    for i in range(4):
        change(f'annotations.{i}.area', written)(content)
    file = read_coco_file(write(tmp_path, content))
    size = int(disk(HEIGHT, WIDTH, 24, 36, 7).sum())
    # The polygon is a square of 15 px, the last one has a box of 15 px alone.
    assert [a['area'] for a in file.content['annotations']] == [size, size, 225, 225]
    assert file.repairs == {'annotations: area was missing, measured': 4}


NAN, INF = math.nan, math.inf
# Damage of an annotation, which can be left out: path, value and what the error says.
IMPOSSIBLE = [
    ('bbox', [NAN, 1, 5, 5], r'annotation 1 \(image 1, slice_0.png\): bbox\[0\] .*finite.* nan'),
    ('bbox', [1, 1, INF, 5], r'annotation 1 .*: bbox\[2\] .*finite'),
    ('bbox', [1, 1, 10**400, 5], r'annotation 1 .*: bbox\[2\]'),
    ('bbox', [1, 1, True, 5], r'annotation 1 .*: bbox\[2\] .*True'),
    ('bbox', [1, 1, 'wide', 5], r'annotation 1 .*: bbox\[2\] .*wide'),
    ('bbox', [1, 1, 5], r'annotation 1 .*: bbox .*at least 4'),
    ('bbox', [1, 1, 5, 5, 0.9], r'annotation 1 .*: bbox .*at most 4'),
    ('bbox', DELETE, r'annotation 1 .*: bbox is missing'),
    ('bbox', None, r'annotation 1 .*: bbox .*None'),
    ('bbox', [1, 1, -5, 5], 'annotation 1 .*smaller than one pixel'),
    ('bbox', [60, 1, 10, 5], 'annotation 1 .*leaves the image of 64 x 48 px'),
    ('bbox', [1e308, 1, 1e308, 5], 'annotation 1 .*leaves the image'),
    ('category_id', 77, 'annotation 1 .*category_id 77 is not in'),
    ('category_id', 'LV', 'annotation 1 .*: category_id .*LV'),
    ('category_id', True, 'annotation 1 .*: category_id .*True'),
    ('id', DELETE, r'annotations\[0\] .*: id is missing'),
    ('id', None, r'annotations\[0\] .*: id .*None'),
    ('id', 1.5, 'annotation 1.5 .*: id'),
    ('id', 10**30, 'annotation 1000.* .*: id'),
    ('image_id', DELETE, 'annotation 1: image_id is missing'),
    ('image_id', [1], r'annotation 1: image_id .*\[1\]'),
    ('iscrowd', 2, 'annotation 1 .*: iscrowd .*2'),
    ('iscrowd', 'no', 'annotation 1 .*: iscrowd'),
    ('ignore', 'no', 'annotation 1 .*: ignore'),
    ('area', NAN, 'annotation 1 .*: area .*nan'),
    ('area', -1, 'annotation 1 .*: area'),
    ('segmentation', [[3e8, 1, 5, 5, 9, 1]], 'annotation 1 .*3e.08.* far outside'),
    ('segmentation', [[-200, 1, 5, 5, 9, 1]], 'annotation 1 .* far outside'),
    ('segmentation', [[NAN, 1, 5, 5, 9, 1]], r'annotation 1 .*: segmentation\[0\]\[0\] .*finite'),
    ('segmentation', [[1, 1, 5, 5]], 'annotation 1 .*at least three x, y'),
    ('segmentation', [[1, 1, 5, 5, 9, 1, 7]], 'annotation 1 .*at least three x, y'),
    ('segmentation', [1, 1, 5, 5, 9, 1], r'annotation 1 .*: segmentation\[0\] .*list'),
    ('segmentation', [[[1, 1], [5, 5], [9, 1]]], r'annotation 1 .*: segmentation\[0\]\[0\]'),
    ('segmentation', [[]], 'annotation 1 .*at least three x, y'),
    ('segmentation', 'abc', 'annotation 1 .*: segmentation'),
    ('segmentation', {}, 'annotation 1 .*: segmentation.size is missing'),
    ('segmentation', dict(size=[64, 48], counts='a'), r'size \[64, 48\], but the image has .*\[48'),
    ('segmentation', dict(size=[48, 64]), 'annotation 1 .*RLE has no counts'),
    ('segmentation', dict(size=[48, 64], counts=''), 'annotation 1 .*RLE has no counts'),
    ('segmentation', dict(size=[48, 64], counts=None), 'annotation 1 .*RLE has no counts'),
    ('segmentation', dict(size=[48, 64], counts=[48 * 64 - 1]), 'cover 3071 of 3072 px'),
    ('segmentation', dict(size=[48, 64], counts=[-1, 3073]), 'counts are no run lengths'),
    ('segmentation', dict(size=[48, 64], counts=[1.5]), r'annotation 1 .*segmentation.counts'),
    ('segmentation', dict(size=[48, 64], counts=7), r'annotation 1 .*segmentation.counts .*7'),
    ('segmentation', dict(size=[48, 64], counts='zzzz'), 'counts are no run lengths'),
    ('segmentation', dict(size=[48, 64], counts='\u00e9' * 4), 'counts are no run lengths'),
    ('segmentation', dict(size=[48, True], counts=[3072]), r'segmentation.size\[1\] .*True'),
]


@pytest.mark.parametrize('field, value, message', IMPOSSIBLE)
def test_impossible_annotations_are_named_or_left_out(tmp_path, field, value, message):
    content = sound_content()
    change(f'annotations.0.{field}', value)(content)
    path = write(tmp_path, content)
    with pytest.raises(AnnotationError, match=message) as error:
        read_coco(path)
    assert isinstance(error.value, (UserError, ValueError)) and str(path) in str(error.value)
    read = read_coco(path, invalid='skip')
    assert read['annotations'] == sound_content()['annotations'][1:]


@pytest.mark.parametrize('entry', [5, None, [1], 'annotation'])
def test_annotation_that_is_no_object(tmp_path, entry):
    content = sound_content()
    content['annotations'].append(entry)
    with pytest.raises(AnnotationError, match=r'annotations\[4\]: it should be a valid dict'):
        read_coco(write(tmp_path, content))


def test_masks_are_needed_on_request(tmp_path):
    path = write(tmp_path, sound_content())
    assert len(read_coco(path)['annotations']) == 4
    with pytest.raises(AnnotationError, match=r'annotation 4 .*: it has no segmentation'):
        read_coco(path, needs_masks=True)


# Damage that nothing can be left out for.
REFUSED = [
    ('images.1.id', 1, 'image id 1 occurs 2 times'),
    ('images.1.id', '1', 'image id 1 occurs 2 times'),
    ('annotations.1.id', 1.0, 'annotation id 1 occurs 2 times'),
    ('categories.1.id', '10', 'category id 10 occurs 2 times'),
    ('annotations.1.image_id', 9, 'annotation 2: its image_id 9 is no image of the file'),
    ('images.1.id', DELETE, r'images\[1\]: id is missing'),
    ('images.1.id', 'two', "image 'two': id"),
    ('images.1.file_name', DELETE, 'image 2: file_name is missing'),
    ('images.1.file_name', None, 'image 2: file_name'),
    ('images.1.file_name', 'a\x00b', 'image 2: file_name should have no null byte'),
    ('images.1.file_name', '\ud800', 'image 2: file_name'),
    ('images.1.width', DELETE, 'image 2: width is missing'),
    ('images.1.width', 64.5, 'image 2: width .*64.5'),
    ('images.1.width', 'wide', 'image 2: width'),
    ('images.1.width', True, 'image 2: width .*True'),
    ('images.1.width', 0, 'image 2: width'),
    ('images.1.height', -48, 'image 2: height'),
    ('images.1.height', NAN, 'image 2: height'),
    ('images.1.height', 10**9, 'image 2: height'),
    ('images.1.patient_id', ['P1'], 'image 2: patient_id'),
    ('images.1.phase', True, 'image 2: phase'),
    ('images.1.slice', NAN, 'image 2: slice'),
    ('images.1.slice_index', -1, 'image 2: slice_index'),
    ('images.1', None, r'images\[1\]: it'),
    ('categories.1.name', DELETE, 'category 20: name is missing'),
    ('categories.1.name', 5, 'category 20: name'),
    ('categories.1.name', '', 'category 20: name'),
    ('images', None, "no list 'images'"),
    ('annotations', DELETE, "no list 'annotations'"),
    ('categories', {}, "no list 'categories'"),
    ('info', [1], '"info"'),
]


@pytest.mark.parametrize('path, value, message', REFUSED)
@pytest.mark.parametrize('invalid', ['error', 'skip'])
def test_what_a_file_cannot_do_without(tmp_path, path, value, message, invalid):
    content = sound_content()
    change(path, value)(content)
    with pytest.raises(AnnotationError, match=message):
        read_coco(write(tmp_path, content), invalid=invalid)


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'not valid JSON .* 0 bytes'),
        ('{"images": [', 'not valid JSON .* may be truncated: 12 bytes'),
        ('[]', "no list 'images'"),
        ('null', "no list 'images'"),
        ('[' * 100_000, 'nested too deep|not valid JSON'),
        ('{"images": [], "images": []}', "key 'images' occurs twice"),
        (json.dumps(sound_content()).replace('"id": 2', '"id": 2, "id": 3'), "key 'id' occurs"),
        ('{"images": ' + '9' * 5000 + '}', 'not valid JSON|no list'),
        (json.dumps(sound_content()).replace('225.0', '1e400'), r'area .*finite.*inf'),
    ],
)
def test_files_that_are_no_coco_file(tmp_path, text, message):
    with pytest.raises(AnnotationError, match=message):
        read_coco(write(tmp_path, text))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32'])
def test_encodings_of_json(tmp_path, encoding):
    content = sound_content()
    content['categories'][0]['name'] = 'Vorhof \u00e9'
    path = tmp_path / 'file.json'
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert read_coco(path) == content


def test_other_encodings_are_refused(tmp_path):
    path = tmp_path / 'file.json'
    path.write_bytes('{"images": "\u00e9"}'.encode('latin-1'))
    with pytest.raises(AnnotationError, match='not valid JSON'):
        read_coco(path)


def test_missing_file_says_what_is_there(tmp_path):
    write(tmp_path, {}, 'train.json')
    with pytest.raises(AnnotationError, match='does not exist. JSON files in its folder: train'):
        read_coco(tmp_path / 'trian.json')
    with pytest.raises(AnnotationError, match=f'{tmp_path} is the last part of the path'):
        read_coco(tmp_path / 'none' / 'deeper' / 'train.json')
    with pytest.raises(AnnotationError, match='cannot be read'):
        read_coco(tmp_path)


def test_many_problems_are_counted(tmp_path):
    content = sound_content()
    content['annotations'] = [
        dict(content['annotations'][0], id=i, bbox=[NAN] * 4) for i in range(25)
    ]
    with pytest.raises(AnnotationError, match=r'25 invalid entries(?s:.*)\.\.\. and 15 more'):
        read_coco(write(tmp_path, content))


def places(content, path=()):
    """Paths of everything inside of JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*path, key))


PLACES = list(places(sound_content()))
NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-100, 100),
    st.floats(),
    st.sampled_from([0, -1, 1e308, 3e8, 2**31, 2**63, 10**400, 1.5]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), NUMBERS.map(str)),
    lambda parts: st.one_of(
        st.lists(parts, max_size=8),
        st.dictionaries(
            st.one_of(st.text(max_size=4), st.sampled_from(['id', 'size', 'counts', 'bbox'])),
            parts,
            max_size=4,
        ),
    ),
    max_leaves=12,
)
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(PLACES),
        st.sampled_from(['replace', 'delete', 'repeat', 'wrap']),
        VALUES,
    ),
    min_size=1,
    max_size=3,
)


def mutate(content, path, how, value):
    *parents, last = path
    try:
        for key in parents:
            content = content[key]
        if how == 'replace':
            content[last] = value
        elif how == 'delete':
            del content[last]
        elif how == 'wrap':
            content[last] = [content[last]]
        elif isinstance(content, list):
            content.append(copy.deepcopy(content[last]))
    except (KeyError, IndexError, TypeError):
        pass  # an earlier change took the place away


def check_any_change(path, changes):
    content = sound_content()
    for where, how, value in changes:
        mutate(content, where, how, value)
    path.write_text(json.dumps(content))
    for invalid in ('error', 'skip'):
        try:
            read = read_coco(path, invalid=invalid)
        except AnnotationError as error:
            assert str(path) in str(error)
            continue
        images = {image['id']: image for image in read['images']}
        assert len(images) == len(read['images'])
        for annotation in read['annotations']:
            image = images[annotation['image_id']]
            assert np.isfinite(annotation['bbox']).all() and annotation['iscrowd'] in (0, 1)
            assert math.isfinite(annotation['area'])
            if annotation.get('segmentation'):
                # Runs that do not add up leave uninitialised memory in the mask.
                shape = (image['height'], image['width'])
                mask = mask_utils.decode(to_rle(annotation['segmentation'], *shape))
                assert mask.shape == shape and mask.max() <= 1


RANDOM = dict(deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])


@settings(max_examples=200, **RANDOM)
@given(changes=CHANGES)
def test_any_change_ends_in_data_or_the_error(tmp_path, changes):
    check_any_change(tmp_path / 'file.json', changes)


@pytest.mark.slow
@settings(max_examples=2000, **RANDOM)
@given(changes=CHANGES)
def test_any_change_ends_in_data_or_the_error_slow(tmp_path, changes):
    check_any_change(tmp_path / 'file.json', changes)
