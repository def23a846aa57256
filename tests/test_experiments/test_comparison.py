"""Configs compared on the phantom: figures against the metrics and pycocotools, what is refused."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import encode

from swin_ext.conversion.errors import ArgumentError
from swin_ext.engine.training_clock import CLOCKS
from swin_ext.experiments import comparison
from swin_ext.experiments.comparison import BASELINES
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.figures import TestFigures

DETECTOR, UNET, BASELINE = 'tiny_seed0', 'tiny_unet_seed0', 'unet_monai-basic_cmr_seed0'


def read(path):
    return json.loads(path.read_text())


def call(configs, phantom, out, *more, budget='12it', options=()):
    arguments = [*map(str, configs), '--seeds', '1', '--budget', budget, '--out', str(out), *more]
    options = [f'data_root={phantom}', 'image_scale=(64,64)', *options]
    comparison.main([*arguments, '--cfg-options', *options])


@pytest.fixture(scope='module')
def out(tmp_path_factory):
    """An experiment that the tests of this module continue in their order."""
    return tmp_path_factory.mktemp('comparison') / 'out'


@pytest.fixture
def configs(tiny_config, tiny_unet):
    return [tiny_config, tiny_unet]


@pytest.fixture
def figures(out, phantom):
    """Those of the small U-Net, which finds something."""
    return TestFigures([(out / UNET / 'test', phantom / 'val.json')], 'patient')


def test_two_configs_and_a_baseline(configs, phantom, out, launches, capsys):
    call(configs, phantom, out, '--run', '1', '--baseline', 'monai-basicunet')
    assert launches == [UNET]
    assert f'Still to be run: {DETECTOR}, {BASELINE}.' in capsys.readouterr().out
    call(configs, phantom, out, '--gather', '--baseline', 'monai-basicunet')
    assert f'**missing**: {DETECTOR}, {BASELINE}' in capsys.readouterr().out
    call(configs, phantom, out, '--baseline', 'monai-basicunet')
    assert launches == [UNET, DETECTOR, BASELINE]
    text = capsys.readouterr().out
    assert '**missing**' not in text and 'has the highest Dice' in text


def test_all_had_the_same_budget(out):
    for name in (DETECTOR, UNET, BASELINE):
        assert read(out / name / 'training_cost.json')['iterations'] == 12
        assert (out / name / 'iter_12.pth').is_file()


def test_the_table_says_what_the_metrics_say(out):
    content = read(out / 'comparison.json')
    assert list(content['configs']) == ['tiny', 'tiny_unet', 'unet_monai-basic_cmr']
    for name, config in content['configs'].items():
        results = read(out / f'{name}_seed0' / 'test' / 'results.json')
        for figure, key in (
            ('mAP', 'coco/segm_mAP'),
            ('AP50', 'coco/segm_mAP_50'),
            ('Dice', 'cmr/dice'),
            ('Dice RV', 'cmr/RV_dice'),
            ('HD95', 'cmr/hd95_mm'),
        ):
            found = config['figures'][figure]
            assert found['of_seeds'] == [found['mean']]
            if results[key] is None:
                assert found['mean'] is found['low'] is None
                continue
            assert found['mean'] == pytest.approx(results[key], rel=1e-5), (name, figure)
            assert found['low'] <= found['mean'] <= found['high']
        assert config['cost'] == {
            key: pytest.approx(value)
            for key, value in read(out / f'{name}_seed0' / 'training_cost.json').items()
            if key in config['cost']
        }
    assert content['configs']['tiny_unet']['figures']['Dice']['mean'] > 0
    with open(out / 'comparison.csv', newline='') as file:
        rows = {(row['config'], row['figure']): row for row in csv.DictReader(file)}
    assert float(rows['tiny_unet', 'Dice']['mean']) == pytest.approx(
        content['configs']['tiny_unet']['figures']['Dice']['mean'], rel=1e-5
    )
    assert rows['unet_monai-basic_cmr', 'parameters']['mean'] == '496244'
    assert (out / 'comparison.png').stat().st_size > 10_000


def test_pairs_are_tested_on_the_same_patients(out):
    content = read(out / 'comparison.json')
    tests = [test for test in content['tests'] if test['figure'] == 'Dice']
    assert [(test['first'], test['second']) for test in tests] == [
        ('tiny', 'tiny_unet'),
        ('tiny', 'unet_monai-basic_cmr'),
        ('tiny_unet', 'unet_monai-basic_cmr'),
    ]
    for test in tests:
        values = [
            content['configs'][test[k]]['figures']['Dice']['of_units'] for k in ('first', 'second')
        ]
        assert test['difference'] == pytest.approx(np.subtract(*values[::-1]).mean())
        assert test['units'] == 2 and test['p'] in (0.5, 1.0)  # of four pairs of signs
        assert test['p_holm'] == pytest.approx(1.0)


def coco_figures(path, predictions, repeats=None):
    """mAP and AP50 by pycocotools, with each patient's images as often as it is said."""
    truth = read(path)
    images, annotations, detections = [], [], []
    for image in truth['images']:
        for _ in range(1 if repeats is None else repeats.get(image['patient_id'], 0)):
            number = len(images) + 1
            images.append(dict(image, id=number))
            annotations += [
                dict(a, id=len(annotations) + place, image_id=number)
                for place, a in enumerate(
                    (a for a in truth['annotations'] if a['image_id'] == image['id']), 1
                )
            ]
            detections += [
                dict(d, image_id=number) for d in predictions if d['image_id'] == image['id']
            ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = dict(truth, images=images, annotations=annotations)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(detections), 'segm')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:2]


def better(path, folder, name):
    """Predictions that find something: annotations moved by a pixel or two, and some others."""
    rng = np.random.RandomState(0)
    truth = COCO(str(path))
    entries = []
    for a in truth.dataset['annotations']:
        mask = np.roll(truth.annToMask(a), rng.randint(-2, 3), 1).astype(np.uint8)
        for scored in [mask] if rng.rand() < 0.8 else [mask, mask]:
            rle = encode(np.asfortranarray(scored))
            rle['counts'] = rle['counts'].decode()
            category = a['category_id'] if rng.rand() < 0.85 else 1 + a['category_id'] % 3
            entries.append(
                dict(
                    image_id=a['image_id'],
                    category_id=category,
                    score=float(rng.rand()),
                    segmentation=rle,
                )
            )
    (folder / name).write_text(json.dumps(entries))
    return entries


@pytest.fixture(scope='module')
def found(phantom, out, tmp_path_factory):
    """A test whose detections are good and bad ones."""
    folder = tmp_path_factory.mktemp('found')
    (folder / 'cmr_slices.csv').write_text((out / UNET / 'test' / 'cmr_slices.csv').read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        entries = better(phantom / 'val.json', folder, 'predictions.segm.json')
    return TestFigures([(folder, phantom / 'val.json')], 'patient'), entries


def test_ap_of_chosen_patients_is_pycocotools(found, phantom):
    figures, entries = found
    path = phantom / 'val.json'
    assert len(figures.units) == 2
    for weights in ([1, 1], [1, 0], [0, 1], [2, 1], [1, 3], [4, 0]):
        repeats = dict(zip(figures.units, weights))
        expected = coco_figures(path, entries, repeats)
        given = np.array([weights], float)
        values = [figures.figure(name, given)[0] for name in ('mAP', 'AP50')]
        assert values == pytest.approx(expected, abs=1e-3), weights  # order of equal scores
        assert 0.1 < expected[1] < 1
    whole = [figures.figure(name)[0] for name in ('mAP', 'AP50')]
    assert whole == pytest.approx(coco_figures(path, entries), abs=1e-9)


def test_dice_of_chosen_patients(figures, out):
    with open(out / UNET / 'test' / 'cmr_slices.csv', newline='') as file:
        rows = list(csv.DictReader(file))
    weights = np.array([[1, 1], [1, 0], [3, 1], [0, 2]], float)
    for name, key in (('Dice', 'dice'), ('HD95', 'hd95_mm')):
        for given, value in zip(weights, figures.figure(name, weights)):
            times = dict(zip(figures.units, given))
            of_class = []
            for each in figures.classes:
                values = [
                    (float(row[key]), times[row['patient_id']])
                    for row in rows
                    if row['class'] == each and row[key] and times[row['patient_id']]
                ]
                if values:
                    of_class.append(sum(v * w for v, w in values) / sum(w for _, w in values))
            assert value == pytest.approx(np.mean(of_class))
    assert figures.by_unit('Dice') == pytest.approx(figures.figure('Dice', np.eye(2)))


def test_nobody_drawn_is_undefined(figures):
    assert np.isnan(figures.figure('mAP', np.zeros((1, 2)))).all()
    assert np.isnan(figures.figure('Dice', np.zeros((1, 2)))).all()


def test_tests_without_what_is_needed(out, phantom, tmp_path):
    with pytest.raises(ExperimentError, match='the test has no CMRMetric'):
        TestFigures([(tmp_path, phantom / 'val.json')], 'patient')
    (tmp_path / 'cmr_slices.csv').write_text((out / UNET / 'test' / 'cmr_slices.csv').read_text())
    with pytest.raises(ExperimentError, match='no FastCocoMetric of masks'):
        TestFigures([(tmp_path, phantom / 'val.json')], 'patient')


def test_a_model_that_finds_nothing_has_an_ap_of_0(out, phantom, tmp_path):
    (tmp_path / 'cmr_slices.csv').write_text((out / UNET / 'test' / 'cmr_slices.csv').read_text())
    (tmp_path / 'predictions.segm.json').write_text('[]')
    figures = TestFigures([(tmp_path, phantom / 'val.json')], 'patient')
    assert figures.figure('mAP').tolist() == [0.0]


def test_a_time_and_folds(tiny_unet, phantom, tmp_path, launches, monkeypatch):
    out = tmp_path / 'out'
    ticks = itertools.count()  # each look at the clock: once an iteration, and around validations
    now = lambda: dict.fromkeys(CLOCKS, next(ticks) / 64)  # noqa: E731
    monkeypatch.setattr('swin_ext.engine.training_clock._now', now)
    call([tiny_unet], phantom, out, '--folds', '2', '--clock', 'cpu', budget='0.5s')
    assert launches == ['tiny_unet_seed0_fold0', 'tiny_unet_seed0_fold1']
    content = read(out / 'comparison.json')
    config = content['configs']['tiny_unet']
    assert len(config['units']) == 6  # each was held out once
    assert not any(value is None for value in config['figures']['Dice']['of_units'])
    for name in launches:
        cost = read(out / name / 'training_cost.json')
        used, step = cost['cpu_s'], cost['seconds_per_iteration']
        assert cost['iterations'] == 32  # until half a second is over
        assert 0.5 <= used < 0.6 and step == pytest.approx(used / cost['iterations'])
    # All patients count once: the mean over slices of both tests.
    values = []
    for name in launches:
        with open(out / name / 'test' / 'cmr_slices.csv', newline='') as file:
            values += [
                float(r['dice']) for r in csv.DictReader(file) if r['class'] == 'LV' and r['dice']
            ]
    assert config['figures']['Dice LV']['mean'] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    'more, message',
    [
        (
            ('--baseline', 'nnformer'),
            '--baseline nnformer: there is none of this name, but monai-b',
        ),
        (('--seeds', '0'), '--seeds 0 must be at least 1'),
        (('--budget', '20 parsecs'), "--budget '20 parsecs': give a time"),
    ],
)
def test_arguments_are_checked(configs, phantom, tmp_path, more, message):
    with pytest.raises(ExperimentError, match=message):
        call(configs, phantom, tmp_path / 'out', *more)


def test_two_configs_of_one_name(configs, phantom, tmp_path):
    (tmp_path / 'other').mkdir()
    other = tmp_path / 'other' / 'tiny.py'
    other.write_text(configs[0].read_text())
    with pytest.raises(ExperimentError, match='tiny.py and .*tiny.py have the same name'):
        call([*configs, other], phantom, tmp_path / 'out')


def test_no_config(phantom, tmp_path):
    with pytest.raises(ExperimentError, match='at least one CONFIG or --baseline'):
        call([], phantom, tmp_path / 'out')


def test_a_config_that_there_is_not(phantom, tmp_path):
    with pytest.raises(ExperimentError, match='There is no config nano.py'):
        call(['nano.py'], phantom, tmp_path / 'out')


def test_configs_of_the_package_by_name():
    names = comparison.named_configs([Path('mask_rcnn_swin-nano_cmr.py')], list(BASELINES))
    assert list(names) == [
        'mask_rcnn_swin-nano_cmr',
        'unet_monai-basic_cmr',
        'unet_monai-dynunet_cmr',
    ]


def test_other_data_for_one_config(configs, phantom, tmp_path):
    content = read(phantom / 'val.json')
    content['annotations'].pop()
    (tmp_path / 'val.json').write_text(json.dumps(content))
    with open(configs[1], 'a') as file:
        file.write(
            f'test_dataloader = dict(dataset=dict(ann_file={str(tmp_path / "val.json")!r}))\n'
        )
    with pytest.raises(ExperimentError, match='different annotations for test: .*val.json'):
        call(configs, phantom, tmp_path / 'out')


def test_data_without_patients(configs, phantom, tmp_path, launches):
    content = read(phantom / 'val.json')
    for image in content['images']:
        del image['patient_id']
    for name in ('train', 'val'):
        (tmp_path / f'{name}.json').write_text(json.dumps(content))
    with pytest.raises(ExperimentError, match='have no "patient_id".*--by image'):
        call(configs, tmp_path, tmp_path / 'out')
    assert launches == []


def test_more_folds_than_patients(configs, phantom, tmp_path):
    with pytest.raises(ArgumentError, match='folds 9.*there are 6 patients'):
        call(configs, phantom, tmp_path / 'out', '--folds', '9')


def test_nothing_to_compare(configs, phantom, tmp_path):
    with pytest.raises(
        ExperimentError, match='nothing to compare yet; to be run: tiny_seed0, tiny_u'
    ):
        call(configs, phantom, tmp_path / 'out', '--gather')


def test_another_experiment_is_refused(configs, phantom, out, launches):
    with pytest.raises(ExperimentError, match='budget: 12 iterations -> 13 iterations'):
        call(configs, phantom, out, '--baseline', 'monai-basicunet', budget='13it')


def test_a_slurm_array(configs, phantom, out, capfd):
    more = ('--baseline', 'monai-basicunet', '--slurm', '-p gpu --dry-run')
    call(configs, phantom, out, *more)
    job = capfd.readouterr().out
    assert '--array=0-2 ' in job
    script = job.partition("<<'JOB'\n")[2].rpartition('JOB\n')[0]
    start = 'srun() { printf \'%s\\n\' "$@"; }\n'
    env = dict(SLURM_CPUS_PER_TASK='1', SLURM_ARRAY_TASK_ID='2', PATH='/usr/bin:/bin')
    task = subprocess.check_output(['bash', '-c', start + script], env=env, text=True).splitlines()
    place = next(i for i, line in enumerate(task) if line.endswith('tools/compare.py'))
    args = comparison.parse(task[place + 1 :])
    names = comparison.named_configs(args.configs, args.baseline)
    assert list(names) == ['tiny', 'tiny_unet', 'unet_monai-basic_cmr']
    assert (args.only, args.seeds, args.budget, args.launcher) == (2, 1, '12it', 'slurm')
    assert args.cfg_options == [f'data_root={phantom}', 'image_scale=(64,64)']
