"""What a data set says of its images does not depend on where it takes it from."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.registry import init_default_scope
from test_cmr import PIPELINE, build, build_with_log

from swin_ext.coco import index as index_module
from toy_cmr import ToyCMR


@pytest.fixture
def toy(tmp_path):
    """Images of two patients, in another order than their annotations, one without any."""
    toy = ToyCMR(tmp_path / 'toy', num_images=6)
    for i, image in enumerate(toy.content['images']):
        image.update(patient_id=f'P{i // 3}', slice=i, phase='ED', width=64.0)
    annotations = [a for a in toy.content['annotations'] if a['image_id'] != 4]
    annotations[0]['iscrowd'] = 1
    annotations[1]['ignore'] = True
    annotations[2]['segmentation'] = [[29, 17, 44.5, 17, 44, 32, 29, 32]]
    annotations[2]['bbox'] = [29, 17, 16, 16]
    toy.content['annotations'] = annotations[::2] + annotations[1::2]
    toy.save()
    return toy


SETTINGS = [
    dict(),
    dict(metainfo=dict(classes=('RV', 'LV'))),
    dict(filter_cfg=dict(filter_empty_gt=True, min_size=20)),
    dict(invalid='skip', checks=dict(filled_ring='ignore')),
    dict(other_splits=['other.json']),
    dict(indices=3),
    dict(pipeline=[dict(type='LoadCMRImage', channels='slices'), *PIPELINE[1:]]),
]


@pytest.mark.parametrize('settings', SETTINGS)
@pytest.mark.parametrize('damaged', [False, True])
def test_an_index_changes_nothing(toy, settings, damaged, caplog, tmp_path):
    other = dict(toy.content, images=[dict(toy.content['images'][0], patient_id='P9')])
    other['annotations'] = []
    (toy.root / 'other.json').write_text(json.dumps(other))
    if damaged:
        settings = {**settings, 'invalid': 'skip'}
        toy.content['annotations'][3]['bbox'] = [50, 1, 40, 5]
        toy.content['annotations'][5]['segmentation'] = None
        toy.save()
        (toy.root / 'images/slice_2.png').unlink()
    found = []
    for index in (False, str(tmp_path / 'index'), str(tmp_path / 'index')):
        caplog.clear()
        dataset, log = build_with_log(toy, caplog, index=index, **settings)
        items = [dataset.get_data_info(i) for i in range(len(dataset))]
        lines = [line.split('] ')[-1] for line in log.splitlines() if 'an index of' not in line]
        # As text, in which 1 and 1.0 differ.
        found.append((json.dumps(items), dataset.metainfo, [r.split('INFO')[-1] for r in lines]))
    assert (tmp_path / 'index/train.json.index.safetensors').exists()
    assert [f[0] for f in found] == [found[0][0]] * 3
    assert [f[1] for f in found] == [found[0][1]] * 3
    assert len({len(f[2]) for f in found}) == 1


def test_items_are_those_of_upstream(toy, tmp_path):
    for image in toy.content['images']:
        image['width'] = 64
    for annotation in toy.content['annotations']:
        annotation.pop('ignore', None)  # which upstream leaves out
    toy.save()
    init_default_scope('mmdet')
    classes = ('LV', 'Myo', 'RV')
    arguments = dict(ann_file='train.json', data_prefix=dict(img='images/'), test_mode=True)
    peer = CocoDataset(
        data_root=str(toy.root), pipeline=PIPELINE, metainfo=dict(classes=classes), **arguments
    )
    dataset = build(toy, index=str(tmp_path), metainfo=dict(classes=classes), test_mode=True)
    assert len(dataset) == len(peer) == 6
    for i in range(6):
        mine, theirs = dataset.get_data_info(i), peer.get_data_info(i)
        assert [(k['bbox'], k['bbox_label'], k['mask']) for k in mine['instances']] == [
            (k['bbox'], k['bbox_label'], k['mask']) for k in theirs['instances']
        ]
        for key in ('img_path', 'img_id', 'height', 'width', 'sample_idx'):
            assert mine[key] == theirs[key]


def test_subsets_and_copies_for_workers(toy, tmp_path):
    dataset = build(toy, index=str(tmp_path))
    ids = [item['img_id'] for item in dataset.data_list]
    other = pickle.loads(pickle.dumps(dataset))
    assert [item['img_id'] for item in other.data_list] == ids
    assert [other.get_data_info(i)['img_id'] for i in (0, -1)] == [ids[0], ids[-1]]
    assert [item['img_id'] for item in dataset.get_subset([4, 1]).data_list] == [ids[4], ids[1]]
    assert [item['img_id'] for item in dataset.get_subset(-2).data_list] == ids[-2:]
    assert np.array_equal(dataset[0]['inputs'], other[0]['inputs'])


def test_proposals_are_said_of_their_image(toy, tmp_path):
    proposals = {f'images/{i["file_name"]}': i['id'] for i in toy.content['images']}
    (tmp_path / 'proposals.pkl').write_bytes(pickle.dumps(proposals))
    dataset = build(toy, proposal_file=str(tmp_path / 'proposals.pkl'))
    assert all(item['proposals'] == item['img_id'] for item in dataset.data_list)


@pytest.mark.parametrize('index', [None, 1, 0.5])
def test_index_is_a_switch_or_a_folder(toy, index):
    with pytest.raises(ValueError, match='must be True, False or a folder'):
        build(toy, index=index)


def test_large_files_get_an_index_unless_it_is_switched_off(toy, monkeypatch):
    monkeypatch.setattr(index_module, 'MIN_BYTES', 100)
    place = toy.root / 'train.json.index.safetensors'
    build(toy, index=False)
    assert not place.exists()
    build(toy)
    assert place.exists()
