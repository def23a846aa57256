import json

import numpy as np
import pytest
from test_cmr import build, build_with_log

from swin_ext.coco.checks import check_content, complete_severities, count_parts
from swin_ext.coco.spacing import spacing_of
from swin_ext.datasets import DatasetError
from toy_cmr import disk, encode


def set_mask(index, mask):
    def damage(content):
        annotation = content['annotations'][index]
        annotation['segmentation'] = encode(mask)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if len(rows):
            annotation['bbox'] = [
                int(columns[0]),
                int(rows[0]),
                int(np.ptp(columns) + 1),
                int(np.ptp(rows) + 1),
            ]

    return damage


def index_of(content, name, image_id=2):
    category_id = {c['name']: c['id'] for c in content['categories']}[name]
    return next(
        i
        for i, a in enumerate(content['annotations'])
        if a['image_id'] == image_id and a['category_id'] == category_id
    )


def move_box(content):
    content['annotations'][4]['bbox'][0] += 3


def empty_mask(content):
    set_mask(4, np.zeros((48, 64), bool))(content)


def fill_ring(content):
    set_mask(index_of(content, 'Myo'), disk(48, 64, 24, 36, 12))(content)


def fill_ring_as_polygon(content):
    content['annotations'][index_of(content, 'Myo')]['segmentation'] = [
        [24, 24, 36, 12, 48.9, 24, 36, 36.9]
    ]


def add_part(content):
    mask = disk(48, 64, 24, 14, 8)
    mask[40:42, 3] = True
    set_mask(index_of(content, 'RV'), mask)(content)


def set_spacings(values):
    def damage(content):
        for image, value in zip(content['images'], values):
            image['spacing_mm'] = value

    return damage


def repeat_image(content):
    content['images'][2]['file_name'] = content['images'][1]['file_name']


CHECKS = [
    ('repeated_images', repeat_image, 'images 2 and 3 are both slice_2.png'),
    ('box_mismatch', move_box, r'1 boxes are more than 2 px off(?s:.*)annotation 5 \(image 2'),
    ('zero_area', empty_mask, r'1 masks are empty(?s:.*)annotation 5 \(image 2'),
    ('filled_ring', fill_ring, r'1 myocardium masks cover(?s:.*)image 2, .*covers 100% of the'),
    ('filled_ring', fill_ring_as_polygon, r'1 myocardium masks cover(?s:.*)covers 100% of the'),
    ('multi_part', add_part, r'1 masks have several parts(?s:.*)image 2, .*2 parts'),
    (
        'missing_spacing',
        set_spacings([1.2, [1.2, 1.2], None, [0, 1.2]]),
        r'2 of 4 images(?s:.*)image 3 \(slice_3.png\): no spacing_mm'
        r'(?s:.*)spacing_mm is \[0, 1.2\]',
    ),
    (
        'mixed_spacing',
        set_spacings([1.2, [1.2, 1.2, 8], 1.2, 1.5]),
        r'measure from 1.2 to 1.5 mm(?s:.*)1.2 x 1.2 mm: 3 images',
    ),
]


@pytest.mark.parametrize('check, damage, message', CHECKS)
@pytest.mark.parametrize('severity', ['error', 'warn', 'ignore'])
def test_severities(toy_cmr, caplog, check, damage, message, severity):
    set_spacings([1.2] * 4)(toy_cmr.content)
    damage(toy_cmr.content)
    toy_cmr.save()
    if severity == 'error':
        with pytest.raises(DatasetError, match=message) as error:
            build(toy_cmr, checks={check: 'error'})
        assert f"checks=dict({check}='warn')" in str(error.value)
        assert 'train.json' in str(error.value)
    else:
        dataset, log = build_with_log(toy_cmr, caplog, checks={check: severity})
        assert len(dataset) == 4
        assert (f'[{check}]' in log) == (severity == 'warn')


@pytest.mark.parametrize('check, damage', [('box_mismatch', move_box), ('zero_area', empty_mask)])
def test_annotations_in_error_are_skipped_on_request(toy_cmr, caplog, check, damage):
    damage(toy_cmr.content)
    toy_cmr.save()
    with pytest.raises(DatasetError, match="leave such annotations out with `invalid='skip'`"):
        build(toy_cmr)
    dataset, log = build_with_log(toy_cmr, caplog, invalid='skip')
    assert [len(dataset.get_data_info(i)['instances']) for i in range(4)] == [3, 2, 3, 3]
    assert f'[{check}]' in log and 'skipped' in log


def test_a_sound_set_has_no_findings(toy_cmr, caplog):
    set_spacings([1.2, 1.2, 1.205, [1.2, 1.2]])(toy_cmr.content)
    toy_cmr.save()
    dataset, log = build_with_log(toy_cmr, caplog)
    assert '[' not in log


def damage_counts(content, counts):
    content['annotations'][4]['segmentation']['counts'] = counts


@pytest.mark.parametrize(
    'counts, message',
    [
        ('zzzz', 'its counts are no run lengths'),
        ([3000, 10], 'its runs cover 3010 of 3072 px'),
        ([-1, 3073], 'its counts are no run lengths'),
    ],
)
def test_damaged_rle(toy_cmr, counts, message):
    damage_counts(toy_cmr.content, counts)
    toy_cmr.save()
    with pytest.raises(DatasetError, match=f'annotation 5 .*its RLE is damaged, {message}'):
        build(toy_cmr)
    assert len(build(toy_cmr, invalid='skip').get_data_info(1)['instances']) == 2


def test_truncated_rle(toy_cmr):
    counts = toy_cmr.content['annotations'][4]['segmentation']['counts']
    damage_counts(toy_cmr.content, counts[:-2])
    toy_cmr.save()
    with pytest.raises(DatasetError, match='annotation 5 .*its RLE is damaged, its'):
        build(toy_cmr)


def write_other(toy, change):
    content = json.loads(toy.json_path.read_text())
    change(content)
    (toy.root / 'val.json').write_text(json.dumps(content))


def number_patients(content, first):
    for i, image in enumerate(content['images']):
        image['patient_id'] = f'P{first + i // 2}'


@pytest.mark.parametrize('first, shared', [(10, 0), (1, 1), (0, 2)])
def test_patient_in_two_splits(toy_cmr, first, shared):
    number_patients(toy_cmr.content, 0)
    toy_cmr.save()
    write_other(toy_cmr, lambda content: number_patients(content, first))
    if shared:
        with pytest.raises(
            DatasetError,
            match=rf'{shared} patients are in val.json as well(?s:.*)'
            'patient P1: 2 images here, 2 there',
        ):
            build(toy_cmr, other_splits=['val.json'])
    else:
        assert len(build(toy_cmr, other_splits='val.json')) == 4


def swap_ids(content):
    for category in content['categories']:
        category['id'] = {10: 20, 20: 10}.get(category['id'], category['id'])


@pytest.mark.parametrize(
    'change, found',
    [
        (swap_ids, True),
        (lambda content: content['categories'].reverse(), True),
        (lambda content: content['categories'].pop(), False),  # fewer, but the same
    ],
)
def test_classes_permuted_in_another_split(toy_cmr, change, found):
    write_other(toy_cmr, change)
    if found:
        with pytest.raises(DatasetError, match='other ids or another order in val.json'):
            build(toy_cmr, other_splits=['val.json'])
    else:
        build(toy_cmr, other_splits=['val.json'])


def test_missing_other_split(toy_cmr):
    with pytest.raises(DatasetError, match='tests.json does not exist'):
        build(toy_cmr, other_splits=['tests.json'])


@pytest.mark.parametrize(
    'checks, message',
    [
        (dict(filled_rings='warn'), "'filled_rings', but there are only"),
        (dict(filled_ring='warning'), "filled_ring='warning' must be one of"),
    ],
)
def test_unknown_check_or_severity(toy_cmr, checks, message):
    with pytest.raises(ValueError, match=message):
        build(toy_cmr, checks=checks)


def test_sampling_is_said(toy_cmr):
    for image_id in (1, 2, 3, 4):
        mask = disk(48, 64, 24, 14, 8)
        mask[40:42, 3] = True
        set_mask(index_of(toy_cmr.content, 'RV', image_id), mask)(toy_cmr.content)
    severities = complete_severities(None)
    (full,) = (f for f in check_content(toy_cmr.content, severities) if f.check == 'multi_part')
    (part,) = (
        f
        for f in check_content(toy_cmr.content, severities, max_decoded=6)
        if f.check == 'multi_part'
    )
    assert len(full.entries) == 4 and 'looked at' not in full.summary
    assert len(part.entries) < 4 and 'Only 6 of 12 masks were looked at' in part.summary


def test_crowds_are_not_checked(toy_cmr):
    move_box(toy_cmr.content)
    toy_cmr.content['annotations'][4]['iscrowd'] = 1
    toy_cmr.save()
    assert len(build(toy_cmr)) == 4


@pytest.mark.parametrize('seed', range(5))
def test_number_of_parts_is_that_of_skimage(seed):
    measure = pytest.importorskip('skimage.measure')
    from pycocotools import mask as mask_utils

    mask = np.random.default_rng(seed).random((40, 50)) < 0.15
    mask[:7], mask[:, -5:] = False, False
    rle = encode(mask)
    assert count_parts(rle, mask_utils.toBbox(rle)) == measure.label(mask, connectivity=2).max()


@pytest.mark.parametrize(
    'value, expected',
    [
        (1.5, (1.5, 1.5)),
        ([1.2, 1.4], (1.2, 1.4)),
        ([1.2, 1.4, 8], (1.2, 1.4)),
        (None, None),
        (0, None),
        ([1.2], None),
        ([1.2, -1], None),
        ('1.2', None),
        (float('nan'), None),
    ],
)
def test_spacing_of(value, expected):
    assert spacing_of(dict(spacing_mm=value)) == expected
