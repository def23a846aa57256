"""Annotation files of folds: nobody is in both, nothing is lost."""

from __future__ import annotations

import copy
import json
from collections import Counter

import pytest
from pycocotools.coco import COCO

from swin_ext.conversion.errors import ArgumentError
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.folds import join_annotations, write_folds


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def parts(phantom):
    return [phantom / 'train.json', phantom / 'val.json']


def objects(path):
    """What an annotation file says of each image, by pycocotools."""
    coco = COCO(str(path))
    return {
        image['file_name']: sorted(
            (a['category_id'], coco.annToMask(a).tobytes()) for a in coco.imgToAnns[id_]
        )
        for id_, image in coco.imgs.items()
    }


@pytest.mark.parametrize('number, seed', [(2, 0), (3, 0), (3, 1), (6, 0)])
def test_each_patient_is_held_out_once(parts, tmp_path, number, seed):
    folds = write_folds(join_annotations(parts), number, seed, 'patient', tmp_path)
    everything = {**objects(parts[0]), **objects(parts[1])}
    patients = Counter()
    for fold in folds:
        train, val = read(fold.train), read(fold.val)
        seen = [{image['patient_id'] for image in part['images']} for part in (train, val)]
        assert not seen[0] & seen[1] and len(seen[0] | seen[1]) == 6
        assert seen[1] == set(fold.held_out)
        patients.update(seen[1])
        assert {**objects(fold.train), **objects(fold.val)} == everything
        assert (len(train['images']), len(val['images'])) == (
            fold.num_train_images,
            fold.num_val_images,
        )
        assert train['info'] == read(parts[0])['info']
        for part in (train, val):
            ids = [entry['id'] for entry in part['annotations']]
            assert len(set(ids)) == len(ids)
    assert set(patients.values()) == {1} and len(patients) == 6


def test_the_seed_decides(parts, tmp_path):
    content = join_annotations(parts)
    held_out = [
        [fold.held_out for fold in write_folds(content, 3, seed, 'patient', tmp_path / name)]
        for name, seed in (('a', 0), ('b', 0), ('c', 1))
    ]
    assert held_out[0] == held_out[1] != held_out[2]


def test_more_folds_than_patients(parts, tmp_path):
    with pytest.raises(ArgumentError, match='folds 7.*there are 6 patients'):
        write_folds(join_annotations(parts), 7, 0, 'patient', tmp_path)


def test_unknown_patients(parts, tmp_path):
    content = join_annotations(parts)
    for image in content['images'][:4]:
        del image['patient_id']
    with pytest.raises(ExperimentError, match='4 of 45 images have no "patient_id".*--by image'):
        write_folds(content, 3, 0, 'patient', tmp_path)
    folds = write_folds(content, 3, 0, 'image', tmp_path)
    assert [fold.num_val_images for fold in folds] == [15, 15, 15]


def _rename(content):
    content['categories'][0]['name'] = 'Atrium'


def _process(content):
    content['info']['preprocessing'] = dict(version=1, window='slice')


def _repeat(content):
    content['images'][0]['file_name'] = 'twice.png'


@pytest.mark.parametrize(
    'change, message',
    [
        (_rename, 'differ in their categories'),
        (_process, 'differ in their preprocessing'),
        (_repeat, 'image twice.png is in .*first.json, too'),
    ],
)
def test_files_that_cannot_be_joined(parts, tmp_path, change, message):
    contents = [read(path) for path in parts]
    contents[0]['images'][0]['file_name'] = 'twice.png'
    change(contents[1])
    paths = [tmp_path / 'first.json', tmp_path / 'second.json']
    for path, content in zip(paths, contents):
        path.write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match=message):
        join_annotations(paths)


def test_impossible_annotations_are_named(parts, tmp_path):
    content = copy.deepcopy(read(parts[0]))
    content['annotations'][3]['category_id'] = 99
    (tmp_path / 'bad.json').write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match='1 annotations are impossible.*category_id 99'):
        join_annotations([tmp_path / 'bad.json'])


def test_doubts_of_both_files_stay(parts, tmp_path):
    paths = []
    for number, path in enumerate(parts):
        content = read(path)
        content['info']['study_warnings'] = {f'patient{number}': ['odd']}
        paths.append(tmp_path / f'{number}.json')
        paths[-1].write_text(json.dumps(content))
    assert join_annotations(paths)['info']['study_warnings'] == dict(
        patient0=['odd'], patient1=['odd']
    )
