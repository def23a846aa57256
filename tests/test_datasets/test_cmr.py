import itertools
import logging

import cv2
import numpy as np
import pycocotools.mask
import pytest
from mmengine.registry import DATASETS, init_default_scope
from pycocotools.coco import COCO

from swin_ext.datasets import CMRDataset, DatasetError
from toy_cmr import ToyCMR, encode

_count = itertools.count()  # the newest logger is the current one
PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='PackDetInputs'),
]


def build(toy, **kwargs):
    init_default_scope('mmdet')
    cfg = dict(
        type='CMRDataset',
        data_root=str(toy.root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=PIPELINE,
        lazy_init=False,
    )
    return DATASETS.build({**cfg, **kwargs})


@pytest.mark.parametrize(
    'classes', [('LV', 'Myo', 'RV'), ('RV', 'LV', 'Myo'), ('Myo', 'LV'), ('RV',)]
)
def test_label_i_is_class_i_whatever_the_order_in_the_file(toy_cmr, classes):
    dataset = build(toy_cmr, metainfo=dict(classes=classes))
    coco = COCO(str(toy_cmr.json_path))
    assert dataset.metainfo['classes'] == classes
    for i in range(len(dataset)):
        info = dataset.get_data_info(i)
        annotations = coco.imgToAnns[info['img_id']]
        names = {tuple(a['bbox'][:2]): coco.cats[a['category_id']]['name'] for a in annotations}
        got = {
            tuple(instance['bbox'][:2]): classes[instance['bbox_label']]
            for instance in info['instances']
        }
        assert got == {corner: name for corner, name in names.items() if name in classes}


def test_classes_come_from_the_file_where_the_config_has_none(tmp_path):
    names = tuple(f'structure {i}' for i in range(69))
    toy = ToyCMR(tmp_path / 'many', classes=('LV', 'Myo') + names[2:])
    assert build(toy).metainfo['classes'] == ('LV', 'Myo') + names[2:]
    one = ToyCMR(tmp_path / 'one', classes=('LV',))
    dataset = build(one)
    assert dataset.metainfo['classes'] == ('LV',)
    assert [i['bbox_label'] for i in dataset.get_data_info(0)['instances']] == [0]


def test_other_metainfo_is_kept(toy_cmr):
    metainfo = dict(classes=('RV', 'LV'), task_name='new task', palette=[(1, 2, 3), (4, 5, 6)])
    found = build(toy_cmr, metainfo=metainfo).metainfo
    assert {key: found[key] for key in metainfo} == metainfo


def test_masks_and_boxes_are_those_of_the_file(toy_cmr):
    dataset = build(toy_cmr)
    sample = dataset[0]['data_samples'].gt_instances
    coco = COCO(str(toy_cmr.json_path))
    annotations = coco.imgToAnns[dataset.get_data_info(0)['img_id']]
    expected = np.stack([pycocotools.mask.decode(a['segmentation']) for a in annotations])
    assert np.array_equal(sample.masks.masks, expected)
    boxes = pycocotools.mask.toBbox([a['segmentation'] for a in annotations])
    boxes[:, 2:] += boxes[:, :2]
    assert np.array_equal(sample.bboxes.tensor.numpy(), boxes)


def test_missing_class_prints_both_lists_and_the_nearest_names(toy_cmr):
    with pytest.raises(DatasetError) as error:
        build(toy_cmr, metainfo=dict(classes=('lv', 'Myocardium')))
    text = str(error.value)
    assert "no category ['lv', 'Myocardium']" in text
    assert "['LV', 'Myo', 'RV']" in text
    assert "'lv': did you mean 'LV'" in text
    assert "'Myocardium': did you mean 'Myo'" in text


def test_single_class_without_comma(toy_cmr):
    with pytest.raises(DatasetError, match=r"a single class needs a comma: classes=\('LV', \)"):
        build(toy_cmr, metainfo=dict(classes='LV'))


def test_no_image_left_prints_both_lists(toy_cmr):
    toy_cmr.content['annotations'] = [
        a for a in toy_cmr.content['annotations'] if a['category_id'] != 30
    ]
    toy_cmr.save()
    with pytest.raises(DatasetError, match='No image is left') as error:
        build(toy_cmr, metainfo=dict(classes=('RV',)), filter_cfg=dict(filter_empty_gt=True))
    assert "asked for (metainfo.classes): ['RV']" in str(error.value)
    assert '4 without an instance' in str(error.value)


def test_filtering_counts_and_keeps_what_it_should(toy_cmr):
    toy_cmr.content['annotations'] = [
        a for a in toy_cmr.content['annotations'] if a['image_id'] != 2
    ]
    toy_cmr.save()
    dataset = build(toy_cmr, filter_cfg=dict(filter_empty_gt=True))
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [1, 3, 4]
    assert len(build(toy_cmr)) == 4
    with pytest.raises(DatasetError, match='4 too small left out'):
        build(toy_cmr, filter_cfg=dict(min_size=49))


# What breaks an annotation file, and the error that must name file and id.
def set_annotation(key, value):
    return lambda content: content['annotations'][4].update({key: value})


BROKEN_ENTRIES = [
    (set_annotation('category_id', 77), r'annotation 5 \(image 2, slice_2.png\): category_id 77'),
    (set_annotation('bbox', [50, 10, 20, 5]), r'annotation 5 .* leaves the image of 64 x 48 px'),
    (set_annotation('bbox', [-3, 10, 20, 5]), r'annotation 5 .* leaves the image of 64 x 48 px'),
    (set_annotation('bbox', [10, 10, 0, 5]), r'annotation 5 .* smaller than one pixel'),
    (
        set_annotation('segmentation', encode(np.ones((64, 48)))),
        r'annotation 5 .* its RLE has size \[64, 48\], but the image has .* \[48, 64\]',
    ),
    (set_annotation('segmentation', dict(size=[48, 64])), 'annotation 5 .* RLE has no counts'),
    (set_annotation('segmentation', [[1, 1, 5, 5]]), 'annotation 5 .* at least three x, y'),
]
BROKEN_IDS = [
    (lambda content: content.update(annotations=[]), r'the list "annotations" is empty'),
    (set_annotation('image_id', 99), 'annotation 5: its image_id 99 is no image of the file'),
    (set_annotation('id', 4), 'annotation id 4 occurs 2 times'),
    (lambda content: content['images'][1].update(id=1), 'image id 1 occurs 2 times'),
    (lambda content: content['categories'][1].update(name='LV'), r"not unique: \['LV'\]"),
    (lambda content: content.pop('categories'), "not a COCO file: it has no list 'categories'"),
]


@pytest.mark.parametrize('damage, message', BROKEN_ENTRIES + BROKEN_IDS)
@pytest.mark.parametrize('test_mode', [False, True])
def test_broken_annotation_file_is_refused(toy_cmr, damage, message, test_mode):
    damage(toy_cmr.content)
    toy_cmr.save()
    with pytest.raises(DatasetError, match=message) as error:
        build(toy_cmr, test_mode=test_mode)
    assert 'train.json' in str(error.value)


@pytest.mark.parametrize('damage, message', BROKEN_ENTRIES)
def test_broken_entries_are_skipped_and_counted_on_request(toy_cmr, damage, message, caplog):
    total = len(toy_cmr.content['annotations'])
    damage(toy_cmr.content)
    toy_cmr.save()
    dataset, log = build_with_log(toy_cmr, caplog, invalid='skip')
    assert sum(len(dataset.get_data_info(i)['instances']) for i in range(4)) == total - 1
    assert '1 invalid entries' in log and 'annotation 5' in log and 'skipped' in log


def build_with_log(toy, caplog, **kwargs):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance(f'test_cmr_{next(_count)}', log_level='INFO')
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        dataset = build(toy, **kwargs)
    logger.removeHandler(caplog.handler)
    return dataset, caplog.text


def test_many_problems_are_counted_and_the_list_is_cut(toy_cmr):
    for annotation in toy_cmr.content['annotations']:
        annotation['category_id'] = 77
    toy_cmr.save()
    with pytest.raises(DatasetError, match=r'12 invalid entries(?s:.*)\.\.\. and 2 more'):
        build(toy_cmr)


def test_truncated_json(toy_cmr):
    text = toy_cmr.json_path.read_text()[:500]
    toy_cmr.json_path.write_text(text)
    with pytest.raises(DatasetError, match=r'train.json is not valid JSON .* 500 bytes'):
        build(toy_cmr)


def test_missing_json(toy_cmr):
    with pytest.raises(DatasetError, match=r'.*/trian.json does not exist. Check data_root'):
        build(toy_cmr, ann_file='trian.json')


def test_missing_image(toy_cmr, caplog):
    (toy_cmr.root / 'images/slice_3.png').unlink()
    with pytest.raises(DatasetError, match=r'image 3: .*slice_3.png does not exist'):
        build(toy_cmr)
    dataset, log = build_with_log(toy_cmr, caplog, invalid='skip')
    assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == [1, 2, 4]
    assert '1 invalid entries' in log and 'slice_3.png' in log


def truncate(path):
    path.write_bytes(path.read_bytes()[:400])


def resize(path):
    cv2.imwrite(str(path), np.zeros((50, 64), np.uint8))


@pytest.mark.parametrize(
    'damage, message',
    [
        (truncate, r'image 3 \(.*slice_3.png\): .*slice_3.png cannot be read'),
        (lambda path: path.write_text('no image'), r'image 3 .*slice_3.png cannot be read'),
        (lambda path: path.write_bytes(b''), r'image 3 .*slice_3.png cannot be read'),
        (resize, r'image 3 .*slice_3.png is 64 x 50 px, but the JSON says 64 x 48'),
    ],
    ids=['truncated', 'text', 'empty', 'other size'],
)
def test_corrupt_image(toy_cmr, damage, message, caplog):
    damage(toy_cmr.root / 'images/slice_3.png')
    dataset = build(toy_cmr)
    assert dataset[1] is not None
    with pytest.raises(DatasetError, match=message):
        dataset[2]
    skipping, log = build_with_log(toy_cmr, caplog, invalid='skip')
    assert [skipping.get_data_info(i)['img_id'] for i in range(len(skipping))] == [1, 2, 4]
    assert '1 invalid entries' in log and 'slice_3.png' in log


def test_image_without_instance_but_of_another_size(toy_cmr):
    toy_cmr.content['annotations'] = [
        a for a in toy_cmr.content['annotations'] if a['image_id'] != 3
    ]
    toy_cmr.save()
    resize(toy_cmr.root / 'images/slice_3.png')
    with pytest.raises(DatasetError, match='is 64 x 50 px, but the JSON says 64 x 48'):
        build(toy_cmr)[2]


def test_invalid_argument(toy_cmr):
    with pytest.raises(ValueError, match="invalid='ignore' must be 'error' or 'skip'"):
        build(toy_cmr, invalid='ignore')


@pytest.mark.parametrize(
    'folder, ann_file, images, instances, classes',
    [
        ('sunnybrook_png', 'train.json', 425, 425, ('LV',)),
        ('sunnybrook_png', 'val.json', 101, 101, ('LV',)),
        ('autofd_nifti/coco', 'train.json', 54, 158, ('LV', 'Myo', 'RV')),
        ('sunnybrook_dicom/coco', 'train.json', 28, 56, ('LV', 'Myo')),
    ],
)
def test_real_sets_are_loaded_whole(real_data, folder, ann_file, images, instances, classes):
    init_default_scope('mmdet')
    dataset = CMRDataset(
        data_root=str(real_data / folder),
        ann_file=ann_file,
        data_prefix=dict(img='images/'),
        pipeline=PIPELINE,
    )
    assert dataset.metainfo['classes'] == classes
    assert len(dataset) == images
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert sum(len(info['instances']) for info in infos) == instances
    assert dataset[0]['data_samples'].gt_instances.masks.masks.any()
