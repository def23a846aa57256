"""Folds trained and tested on the phantom, gathered, interrupted, refused."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from swin_ext.conversion.errors import ArgumentError
from swin_ext.experiments import cross_validation
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.fold_report import group_by_figure

ROOT = Path(__file__).parents[2]


def read(path):
    return json.loads(path.read_text())


def call(config, phantom, out, *more, folds=2, options=()):
    arguments = [str(config), '--folds', str(folds), '--out', str(out), *more]
    cross_validation.main([*arguments, '--cfg-options', f'data_root={phantom}', *options])


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """An experiment that the tests of this module continue in their order."""
    return tmp_path_factory.mktemp('cross_validation') / 'out'


@pytest.fixture
def config(tiny_unet):
    return tiny_unet


def test_a_fold_alone(config, phantom, out, launches, capsys):
    call(config, phantom, out, '--fold', '1')
    assert launches == ['fold_1']
    assert 'Still to be run: fold_0.' in capsys.readouterr().out
    assert not (out / 'cross_validation.md').exists()


def test_each_fold_has_what_it_was_told(config, phantom, out):
    for number in range(2):
        folder = out / f'fold_{number}'
        cfg = Config.fromfile(folder / 'config.py')
        train, val = folder / 'train.json', folder / 'val.json'
        assert cfg.train_dataloader.dataset.ann_file == str(train.resolve())
        assert cfg.train_dataloader.dataset.other_splits == [str(val.resolve())]
        for split in ('val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.ann_file == str(val.resolve())
        assert cfg.randomness.seed == 0 and cfg.load_from is None


def test_gathering_says_what_is_missing(config, phantom, out, launches, capsys):
    call(config, phantom, out, '--gather')
    assert launches == []
    assert '**Missing**: fold_0' in capsys.readouterr().out
    content = read(out / 'cross_validation.json')
    assert content['missing'] == ['fold_0'] and len(content['folds']) == 1
    assert content['summary']['cmr/dice']['sd'] is None
    assert content['summary']['cmr/dice']['mean'] > 0


def test_interrupted_between_training_and_test(config, phantom, out, launches):
    launches.interrupted = 'fold_0'
    with pytest.raises(KeyboardInterrupt):
        call(config, phantom, out)
    assert launches == ['fold_0']  # the other is finished
    (checkpoint,) = (out / 'fold_0').glob('iter_*.pth')
    before = checkpoint.stat().st_mtime_ns
    launches.interrupted = None
    call(config, phantom, out)
    assert launches == ['fold_0', 'fold_0']
    assert checkpoint.stat().st_mtime_ns == before  # it was not trained again
    assert read(out / 'fold_0' / 'finished.json')['checkpoint'] == checkpoint.name


def test_each_fold_begins_with_the_weights_of_the_config(config, phantom, tmp_path, launches):
    torch.manual_seed(1)
    start = MODELS.build(Config.fromfile(config).model).state_dict()
    torch.save(dict(state_dict=start, meta={}, message_hub={}), tmp_path / 'start.pth')
    options = [f'load_from={tmp_path}/start.pth', 'optim_wrapper.optimizer.lr=1e-12']
    launches.interrupted = 'fold_1'
    for ended in (pytest.raises(KeyboardInterrupt), contextlib.nullcontext()):
        with ended:
            call(config, phantom, tmp_path / 'out', '--fold', '1', options=options)
        launches.interrupted = None
    assert launches == ['fold_1', 'fold_1']
    (path,) = (tmp_path / 'out' / 'fold_1').glob('iter_*.pth')
    trained = torch.load(path, weights_only=False)
    assert trained['meta']['iter'] > 0
    parameters = {name for name in start if name.endswith(('weight', 'bias'))}
    assert parameters and parameters <= trained['state_dict'].keys()
    for name in parameters:
        torch.testing.assert_close(trained['state_dict'][name], start[name], atol=1e-8, rtol=0)


def test_tables_have_what_the_tests_found(config, phantom, out, launches, capsys):
    call(config, phantom, out)
    assert launches == []
    folds = [read(out / f'fold_{n}' / 'test' / 'results.json') for n in range(2)]
    content = read(out / 'cross_validation.json')
    assert content['missing'] == [] and set(content['summary']) == set(folds[0])
    assert {'coco/segm_mAP', 'cmr/LV_dice', 'cmr/RV_hd95_mm'} <= set(folds[0])
    with open(out / 'cross_validation.csv', newline='') as file:
        rows = {row['fold']: row for row in csv.DictReader(file)}
    for key, summary in content['summary'].items():
        values = [f[key] for f in folds if f[key] is not None and f[key] != -1]
        assert summary['folds'] == len(values)
        if values:
            assert summary['mean'] == pytest.approx(statistics.mean(values))
            assert float(rows['mean'][key]) == pytest.approx(summary['mean'])
        if len(values) == 2:
            assert summary['sd'] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
        for number, of_fold in enumerate(folds):
            cell = rows[str(number)][key]
            assert (float(cell) if cell else None) == of_fold[key]
    images = [read(out / f'fold_{n}' / 'val.json')['images'] for n in range(2)]
    for fold, held_out in zip(content['folds'], images):
        assert fold['test_images'] == len(held_out)
        assert set(fold['held_out']) == {image['patient_id'] for image in held_out}
    text = capsys.readouterr().out
    assert text.count('cmr/LV_dice ') == 1 and 'Trained on [images]' in text
    pictures = {path.name for path in (out / 'figures').iterdir()}
    assert {'cmr_dice.png', 'coco_segm_mAP.png', 'cmr_LV_missed.png'} <= pictures
    assert 'cmr_LV_dice.png' not in pictures  # beside the mean


def test_the_patients_that_are_tested_are_those_held_out(out):
    for number in range(2):
        with open(out / f'fold_{number}' / 'test' / 'cmr_slices.csv', newline='') as file:
            tested = {row['patient_id'] for row in csv.DictReader(file)}
        trained = {i['patient_id'] for i in read(out / f'fold_{number}' / 'train.json')['images']}
        assert len(tested) == 3 and not tested & trained


@pytest.mark.parametrize(
    'more, options, folds, message',
    [
        ((), (), 3, 'folds: 2 -> 3'),
        (('--seed', '4'), (), 2, 'seed: 0 -> 4'),
        ((), ('max_epochs=2',), 2, r'config: \w{12}\.\.\. -> '),
        (('--weights', 'best'), (), 2, 'weights: last -> best'),
    ],
)
def test_another_experiment_is_refused(
    config, phantom, out, launches, more, options, folds, message
):
    with pytest.raises(ExperimentError, match=message):
        call(config, phantom, out, *more, folds=folds, options=options)
    assert launches == []


def test_other_data_are_refused(config, phantom, out, tmp_path, launches):
    content = read(phantom / 'train.json')
    content['annotations'].pop()
    (tmp_path / 'train.json').write_text(json.dumps(content))
    option = f'train_dataloader.dataset.ann_file={tmp_path / "train.json"}'
    with pytest.raises(ExperimentError, match='annotations: .* -> '):
        call(config, phantom, out, options=[option])


def test_more_folds_than_patients(config, phantom, tmp_path, launches):
    with pytest.raises(ArgumentError, match='folds 7.*there are 6 patients'):
        call(config, phantom, tmp_path / 'out', folds=7)


def test_data_without_patients(config, phantom, tmp_path, launches):
    for name in ('train', 'val'):
        content = read(phantom / f'{name}.json')
        for image in content['images']:
            del image['patient_id']
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match='45 of 45 images have no "patient_id".*--by image'):
        call(config, tmp_path, tmp_path / 'out')
    assert launches == []


@pytest.mark.parametrize(
    'more, message',
    [(('--fold', '2'), '--fold 2: there are 2 runs, 0 to 1'), (('--fold', '-1'), '--fold -1')],
)
def test_a_fold_that_there_is_not(config, phantom, out, launches, more, message):
    with pytest.raises(ExperimentError, match=message):
        call(config, phantom, out, *more)


def test_nothing_to_gather(config, phantom, tmp_path, launches):
    with pytest.raises(ExperimentError, match='no fold is finished; to be run: fold_0, fold_1'):
        call(config, phantom, tmp_path / 'out', '--gather')


@pytest.mark.parametrize(
    'options, message',
    [
        (['data_root=nowhere'], 'train.json does not exist'),
        (['test_evaluator=None'], 'has no test_evaluator'),
        (['val_dataloader.dataset.data_prefix.img=other/'], 'different image folders'),
    ],
)
def test_configs_that_cannot_be_cross_validated(config, phantom, tmp_path, options, message):
    with pytest.raises(ExperimentError, match=message):
        call(config, phantom, tmp_path / 'out', options=options)
    assert not (tmp_path / 'out' / 'experiment.json').exists()


def test_a_slurm_array(config, phantom, out, capfd):
    call(config, phantom, out, '--slurm', '-p gpu -g 2 -t 60 --dry-run')
    job = capfd.readouterr().out
    assert '--array=0-1 ' in job and '--gres=gpu:2' in job and '--requeue' in job
    script = job.partition("<<'JOB'\n")[2].rpartition('JOB\n')[0]
    start = 'srun() { printf \'%s\\n\' "$@"; }\n'
    env = dict(SLURM_CPUS_PER_TASK='1', SLURM_ARRAY_TASK_ID='1', PATH='/usr/bin:/bin')
    task = subprocess.check_output(['bash', '-c', start + script], env=env, text=True).splitlines()
    start = next(i for i, line in enumerate(task) if line.endswith('tools/cross_validate.py'))
    assert task[start + 1] == str(config)
    args = cross_validation.parse(task[start + 1 :])
    assert (args.folds, args.only, args.launcher, args.out) == (2, 1, 'slurm', out)
    assert args.cfg_options == [f'data_root={phantom}']


def test_slurm_refuses(config, phantom, out, capfd):
    with pytest.raises(ExperimentError, match='slurm_train.sh ended with status 2'):
        call(config, phantom, out, '--slurm', '--nods 3')


def test_figures_of_classes_belong_to_their_mean():
    keys = (
        'coco/segm_mAP coco/segm_mAP_50 coco/segm_LV_precision coco/segm_LV_precision_50 '
        'coco/bbox_mAP coco/bbox_LV_precision cmr/dice cmr/dice_3d cmr/LV_dice cmr/LV_dice_3d '
        'cmr/LV_missed cmr/LV_EF_bias_percent toy/loss'
    ).split()
    assert group_by_figure(keys) == {
        'coco/segm_mAP': ['coco/segm_mAP', 'coco/segm_LV_precision'],
        'coco/segm_mAP_50': ['coco/segm_mAP_50', 'coco/segm_LV_precision_50'],
        'coco/bbox_mAP': ['coco/bbox_mAP', 'coco/bbox_LV_precision'],
        'cmr/dice': ['cmr/dice', 'cmr/LV_dice'],
        'cmr/dice_3d': ['cmr/dice_3d', 'cmr/LV_dice_3d'],
        'cmr/LV_missed': ['cmr/LV_missed'],
        'cmr/LV_EF_bias_percent': ['cmr/LV_EF_bias_percent'],
        'toy/loss': ['toy/loss'],
    }


@pytest.mark.parametrize('tool', ['cross_validate', 'compare'])
def test_help_needs_no_torch(tool):
    command = [sys.executable, '-X', 'importtime', str(ROOT / 'tools' / f'{tool}.py'), '--help']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and '--folds' in done.stdout
    assert 'torch' not in done.stderr
