"""The config that is suggested, by what a data set is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from swin_ext.preflight.suggestion import SuggestionError, choose, suggest_config, summarise

ROOT = Path(__file__).parents[2]
HEART, STREET = ('LV', 'Myo', 'RV'), ('car', 'person')


def write(path: Path, num_images: int, classes=HEART, each: int = 1, empty: int = 0) -> Path:
    """An annotation file of squares, `each` of them in an image; images are not there."""
    images = [
        dict(id=i, file_name=f'{i}.png', height=48, width=64)
        for i in range(1, num_images + empty + 1)
    ]
    square = [[1, 1, 11, 1, 11, 11, 1, 11]]
    annotations = [
        dict(
            id=i * each + k + 1,
            image_id=i,
            category_id=1 + (i + k) % len(classes),
            bbox=[1, 1, 10, 10],
            area=100,
            iscrowd=0,
            segmentation=square,
        )
        for i in range(1, num_images + 1)
        for k in range(each)
    ]
    categories = [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return path


@pytest.mark.parametrize(
    'num_images, size',
    [(2, 't'), (999, 't'), (1000, 's'), (5000, 's'), (5001, 'b')],
)
def test_a_larger_swin_for_more_images(tmp_path, num_images, size):
    write(tmp_path / 'train.json', num_images, empty=3)
    summary = summarise([tmp_path])
    assert (summary.num_images, summary.num_empty) == (num_images, 3)
    suggestion = choose(summary, 'gpu')
    assert suggestion.config == f'mask2former/mask2former_swin-{size}_cmr.py'
    assert suggestion.options == (f'data_root={tmp_path}', 'num_classes=3')


@pytest.mark.parametrize(
    'classes, device, config',
    [
        (HEART, 'cpu', 'mask_rcnn_swin-nano_cmr.py'),
        (STREET, 'cpu', 'mask_rcnn_swin-nano_cmr.py'),
        (STREET, 'gpu', 'mask2former/mask2former_swin-t_cmr.py'),
        (('film', 'Fiber', 'Fragment'), 'gpu', 'mask_rcnn/mask_rcnn_r50_microplastics.py'),
        (('Left_Ventricle',), 'gpu', 'mask2former/mask2former_swin-t_cmr.py'),
    ],
)
def test_by_classes_and_device(tmp_path, classes, device, config):
    write(tmp_path / 'train.json', 5, classes)
    suggestion = choose(summarise([tmp_path]), device)
    assert suggestion.config == config
    is_larger = any(option.startswith('image_scale') for option in suggestion.options)
    assert is_larger == (classes == STREET and device == 'gpu')


@pytest.mark.parametrize('each, is_more', [(20, False), (21, True)])
def test_more_instances_than_a_heart_has(tmp_path, each, is_more):
    write(tmp_path / 'train.json', 2, STREET, each=each)
    options = choose(summarise([tmp_path]), 'gpu').options
    assert ('model.test_cfg.max_per_image=100' in options) == is_more


@pytest.mark.skipif(
    not (ROOT / 'configs/mask2former').is_dir(), reason='there are no configs of Mask2Former'
)
@pytest.mark.parametrize('device', ['cpu', 'gpu'])
@pytest.mark.parametrize('num_images', [1, 1000, 5001])
def test_what_is_suggested_is_shipped(tmp_path, num_images, device):
    write(tmp_path / 'train.json', num_images)
    suggestion = choose(summarise([tmp_path]), device)
    assert (ROOT / 'configs' / suggestion.config).is_file()


def test_names_of_files_become_options(tmp_path):
    train, val = (write(tmp_path / folder / 'a.json', 2) for folder in ('one', 'two'))
    text = suggest_config([train, val], 'gpu')
    for option in (
        f'data_root={tmp_path}/one',
        'train_dataloader.dataset.ann_file=a.json',
        'val_dataloader.dataset.ann_file=../two/a.json',
        'test_dataloader.dataset.ann_file=../two/a.json',
    ):
        assert f' {option}' in text
    assert 'missing' not in text
    assert 'missing: annotations of a validation' in suggest_config([train], 'gpu')


def test_coco_itself(tmp_path):
    for split in ('train', 'val'):
        write(tmp_path / f'annotations/instances_{split}2017.json', 2, STREET)
    summary = summarise([tmp_path])
    assert summary.train == 'annotations/instances_train2017.json' and summary.val


def test_what_fits_no_config_is_refused(tmp_path):
    with pytest.raises(SuggestionError, match='has none of train.json'):
        suggest_config([tmp_path])
    train = write(tmp_path / 'train.json', 2)
    with pytest.raises(SuggestionError, match='Give one data root, or one or two annotation files'):
        suggest_config([train, tmp_path])
    write(tmp_path / 'val.json', 2, HEART[::-1])
    with pytest.raises(SuggestionError, match='Give both the same, in the same order'):
        suggest_config([tmp_path])
    content = json.loads(train.read_text())
    del content['annotations'][0]['segmentation']
    train.write_text(json.dumps(content))
    with pytest.raises(SuggestionError, match='1 of 2 annotations have no mask'):
        suggest_config([train])


def test_of_real_data(real_data):
    summary = summarise([real_data / 'autofd_nifti/coco'])
    assert summary.is_cardiac and list(summary.instances) == ['LV', 'Myo', 'RV']
    content = json.loads((real_data / 'autofd_nifti/coco/train.json').read_text())
    assert sum(summary.instances.values()) == len(content['annotations'])
    assert summary.num_images + summary.num_empty == len(content['images'])


def test_the_tool_needs_no_torch(tmp_path):
    write(tmp_path / 'train.json', 2)
    program = (
        'import sys, runpy; sys.argv = sys.argv[1:]\n'
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('torch' in sys.modules, 'mmengine' in sys.modules)"
    )
    call = [sys.executable, '-c', program, str(ROOT / 'tools/suggest_config.py')]
    env = dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path]))
    done = subprocess.run(
        [*call, str(tmp_path), '--device=cpu'], env=env, capture_output=True, text=True
    )
    assert done.stdout.endswith('False False\n'), done.stdout + done.stderr
    assert 'run:     mim train swin_ext mask_rcnn_swin-nano_cmr.py' in done.stdout
