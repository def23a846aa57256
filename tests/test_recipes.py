"""What the user guide proposes, with the values of `--cfg-options` that it gives."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS

import swin_ext.registration  # noqa: F401
from toy_cmr import ToyCMR, disk

ROOT = Path(__file__).parents[1]
NANO = ROOT / 'configs' / 'mask_rcnn_swin-nano_cmr.py'
# Smaller images than a user would take, so that the tests do not take long.
SMALL = 'image_scale=(64,64) randomness.seed=0'
_count = itertools.count()


def train(data_root, work_dir, options):
    """Train with what a user would type after `--cfg-options`."""
    cfg = Config.fromfile(NANO)
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    typed = f'--cfg-options data_root={data_root} {options} {SMALL}'
    cfg.merge_from_dict(parser.parse_args(typed.split()).cfg_options)
    cfg.work_dir, cfg.launcher = str(work_dir), 'none'
    cfg.experiment_name = f'recipe_{os.getpid()}_{next(_count)}'
    cfg.visualizer.name = cfg.experiment_name  # else it writes where that of an earlier test did
    runner = RUNNERS.build(cfg)
    runner.train()
    return runner


@pytest.fixture(scope='module')
def smoke_test(tmp_path_factory):
    """Twenty iterations, and the best checkpoint by Dice."""
    root = tmp_path_factory.mktemp('smoke')
    data = ToyCMR(root / 'data', num_images=84)
    options = (
        'max_epochs=1 train_dataloader.dataset.indices=80 val_dataloader.dataset.indices=8 '
        'best.metric=cmr/dice'
    )
    return train(data.root, root / 'run', options)


def test_a_smoke_test_of_20_iterations(smoke_test):
    assert smoke_test.iter == smoke_test.max_iters == 20
    scalars = max(Path(smoke_test.work_dir).glob('2*/vis_data/scalars.json'))
    records = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert [r['iter'] for r in records if 'loss' in r] == [20]
    assert [r['step'] for r in records if 'coco/segm_mAP' in r] == [20]
    assert list(Path(smoke_test.work_dir).glob('iter_20.pth'))


def test_the_best_checkpoint_by_dice(smoke_test):
    (best,) = Path(smoke_test.work_dir).glob('best_*.pth')
    assert best.name == 'best_cmr_dice_iter_20.pth'


def write_patient(folder: Path, seed: int) -> None:
    """Four slices 8 mm apart, each brighter than the one below it."""
    lv = disk(48, 64, 24, 36, 7)
    labels = lv + 2 * (disk(48, 64, 24, 36, 12) & ~lv) + 3 * disk(48, 64, 24, 14, 8)
    labels = np.repeat(labels[:, :, None], 4, axis=2)
    rng = np.random.RandomState(seed)
    image = 40 * labels + 10 * np.arange(4) + rng.randint(0, 5, labels.shape)
    folder.mkdir(parents=True)
    affine = np.diag([1.5, 1.5, 8, 1])
    for name, array in (('image', image), ('label', labels)):
        path = folder / f'{name}.nii.gz'
        nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), affine), path)


def test_25_d_from_the_source_files(tmp_path):
    for seed, name in enumerate(('a', 'b', 'c')):
        write_patient(tmp_path / 'study' / name, seed)
    command = (
        'nifti study --image {patient}/image.nii.gz --label {patient}/label.nii.gz '
        '--labels 1=LV,2=Myo,3=RV --pixels none --patient-ids folder --val-patients c --out data'
    )
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'cmr2coco.py'), *command.split()],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(ROOT), *sys.path])),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / 'data').rglob('*.png'))
    options = 'max_epochs=1 ' + ' '.join(
        f'{split}_dataloader.dataset.{setting}'
        for split in ('train', 'val')
        for setting in (
            f'data_prefix.img={tmp_path}/study',
            'pipeline.0.channels=slices',
            'pipeline.0.window=study',
        )
    )
    runner = train(tmp_path / 'data', tmp_path / 'run', options)
    assert runner.iter == 2  # 8 slices of two patients in batches of 4
    image = runner.val_dataloader.dataset.get_data_info(1)
    loaded = runner.val_dataloader.dataset.pipeline.transforms[0](image)['img'].astype(float)
    below, itself, above = loaded.mean((0, 1))
    assert below < itself < above
    assert re.search(r'image\.nii\.gz$', image['img_path'])
