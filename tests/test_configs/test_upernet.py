"""The configs of UPerNet: as published, able to train and to find, and without mmdet."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import swin_ext.registration  # noqa: F401
from swin_ext.config import finalise_config
from swin_ext.conversion.semantic_labels import write_semantic_labels
from swin_ext.engine import SwinExtRunner
from toy_cmr import ToyCMR

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/upernet'
UPSTREAM = Path(mmseg.__file__).parent / '.mim/configs/swin'
PUBLISHED = UPSTREAM / 'swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'
# That for the data sets of detectors is in test_all_configs.
NAMES = sorted(path.name for path in CONFIGS.glob('*.py') if 'instances' not in path.name)
# A model for images of 64 px, without what comes from the network.
SMALL = {
    'model.backbone': dict(
        arch=dict(_delete_=True, embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
        init_cfg=None,
    ),
    'model.decode_head': dict(in_channels=[8, 16, 32, 64], channels=8),
    'model.auxiliary_head': dict(in_channels=32, channels=8),
    'load_from': None,
}
_count = itertools.count()


@pytest.fixture(scope='module')
def cmr(tmp_path_factory) -> Path:
    toy = ToyCMR(tmp_path_factory.mktemp('data') / 'cmr', num_images=2)
    write_semantic_labels(toy.root, toy.root)
    return toy.root


@pytest.fixture(scope='module')
def ade(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp('data') / 'ade'
    rng = np.random.RandomState(0)
    for split in ('training', 'validation'):
        for folder in ('images', 'annotations'):
            (root / folder / split).mkdir(parents=True)
        cv2.imwrite(f'{root}/images/{split}/1.jpg', rng.randint(0, 256, (60, 80, 3), np.uint8))
        cv2.imwrite(f'{root}/annotations/{split}/1.png', rng.randint(0, 151, (60, 80), np.uint8))
    return root


class QuickRunner(SwinExtRunner):
    """What a runner says of the environment takes long."""

    def _log_env(self, *_):
        pass


@pytest.mark.parametrize('name', NAMES)
def test_it_trains_and_finds(name, cmr, ade, tmp_path):
    cfg = Config.fromfile(CONFIGS / name)
    is_ade = 'ade20k' in name
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in dict(num_workers=0, persistent_workers=False).items()
    }
    name = f'upernet_{os.getpid()}_{next(_count)}'
    cfg.merge_from_dict(
        {
            **SMALL,
            **loaders,
            'data_root': str(ade if is_ade else cmr),
            'train_dataloader.batch_size': 2,
            'max_iters': 1,
            'work_dir': str(tmp_path),
            'experiment_name': name,
            'visualizer.name': name,
            'log_level': 'ERROR',
            'launcher': 'none',
            'default_hooks.checkpoint': None,
            'custom_hooks': [dict(type='ClassCheckHook'), dict(type='AdaptCheckpointHook')],
        }
    )
    cfg.pop('best', None)
    if is_ade:
        cfg.param_scheduler = None  # of 160,000 iterations
        cfg.model.data_preprocessor.size = (64, 64)
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            for step in loader.dataset.pipeline:
                step.update({k: (64, 64) for k in ('scale', 'crop_size') if k in step})
    else:
        cfg.image_scale = (64, 64)
    runner = QuickRunner.from_cfg(cfg)
    model = runner.model
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    found = []
    predict = model.val_step
    model.val_step = lambda batch: found.extend(predict(batch)) or found[-1:]
    runner.train()

    assert runner.iter == 1
    changed = sum(not p.equal(before[key]) for key, p in model.named_parameters())
    assert changed > len(before) / 2
    assert len(found) == (1 if is_ade else 2)
    for sample in found:
        labels = sample.pred_sem_seg.data
        assert labels.shape == (1, *sample.ori_shape)
        assert 0 <= labels.min() and labels.max() < cfg.num_classes
    figures = {key.rpartition('/')[2] for key in runner.message_hub.log_scalars}
    assert {'mIoU', 'aAcc'} <= figures and ('mDice' in figures) != is_ade


def shapes(model: dict) -> dict[str, tuple]:
    init_default_scope('mmseg')
    state_dict = MODELS.build(model).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


def test_the_one_for_ade20k_is_that_of_mmseg():
    """By name and shape: the published file can be tested as it is. Data and schedule, too."""
    ours = finalise_config(Config.fromfile(CONFIGS / 'upernet_swin-t_160k_ade20k.py'))
    theirs = Config.fromfile(PUBLISHED)
    theirs.model.backbone.init_cfg = ours.model.backbone.init_cfg = None
    assert shapes(ours.model) == shapes(theirs.model)
    preprocessor = dict(theirs.model.data_preprocessor)
    own = {k: v for k, v in ours.model.data_preprocessor.items() if v is not None}
    assert own == preprocessor
    for head in ('decode_head', 'auxiliary_head'):
        assert dict(ours.model[head]) == dict(theirs.model[head])
    for loader in ('train_dataloader', 'val_dataloader'):
        own, other = ours[loader].to_dict(), theirs[loader].to_dict()
        assert own.pop('pin_memory')  # how images get to a GPU
        assert own['dataset'].pop('data_root') == other['dataset'].pop('data_root')
        assert own == other
    assert ours.val_evaluator == theirs.val_evaluator
    for key in ('type', 'lr', 'betas', 'weight_decay'):
        assert ours.optim_wrapper.optimizer[key] == theirs.optim_wrapper.optimizer[key]
    for own, other in zip(ours.param_scheduler, theirs.param_scheduler, strict=True):
        assert dict(own, end=None) == dict(other, end=None)
    assert ours.train_cfg.max_iters == theirs.train_cfg.max_iters == theirs.param_scheduler[1].end
    assert ours.train_cfg.val_interval == theirs.train_cfg.val_interval


REGISTERED = """
import sys, mmseg, swin_ext
from mmengine.registry import DATASETS, MODELS
def tell():
    registered = 'SwinBackbone' in MODELS.module_dict, 'CMRDataset' in DATASETS.module_dict
    print('mmdet' in sys.modules, *registered)
tell()
from mmengine.config import Config
from mmengine.runner import Runner
cfg = Config.fromfile(sys.argv[1])
cfg.merge_from_dict(dict(work_dir=sys.argv[2], launcher='none', log_level='ERROR'))
runner = Runner.from_cfg(cfg)  # as tools/test.py of mmseg
print(type(runner).__name__, type(runner.model).__module__, type(runner.model.backbone).__name__)
tell()
import swin_ext.registration
tell()
"""


def test_the_model_is_built_without_mmdet(tmp_path):
    """What is of mmdet can be registered later."""
    config = CONFIGS / 'upernet_swin-nano_cmr.py'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', REGISTERED, str(config), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-4:] == [
        'False True False',
        'SwinExtRunner mmseg.models.segmentors.encoder_decoder SwinBackbone',
        'False True False',
        'True True True',
    ], done.stderr[-2000:]


# Tells after each program which packages it has imported.
WITNESS = """
import atexit, os, sys
def tell():
    names = sorted({'mmdet', 'mmseg', 'torch', 'swin_ext'} & set(sys.modules))
    with open(os.environ['IMPORTED'], 'a') as file:
        print(*names, file=file)
atexit.register(tell)
"""


def mim(*words, root: Path, options: dict) -> str:
    done = subprocess.run(
        [
            *(sys.executable, '-m', 'mim', *words, '--cfg-options'),
            *(f'{key}={value}' for key, value in options.items()),
        ],
        cwd=root,
        env={
            **os.environ,
            'PYTHONPATH': f'{root}{os.pathsep}{ROOT}',
            'IMPORTED': str(root / 'imported.txt'),
            'COLUMNS': '400',
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.mark.slow
def test_mim_trains_and_tests_it(cmr, tmp_path):
    (tmp_path / 'sitecustomize.py').write_text(WITNESS)
    config = str(CONFIGS / 'upernet_swin-nano_cmr.py')
    options = {
        'data_root': cmr,
        'image_scale': '(64,64)',
        'max_iters': 2,
        'train_dataloader.batch_size': 2,
        'default_hooks.logger.interval': 1,
    }
    run = tmp_path / 'run'
    terminal = mim(
        *('train', 'mmsegmentation', config, '--work-dir', str(run)), root=tmp_path, options=options
    )
    assert 'EncoderDecoder, SwinBackbone' in terminal
    assert '|    Myo     |' in terminal  # a row of the table of the validation
    (file,) = run.glob('inference_mDice_iter_2-*.pth')
    meta = torch.load(file, weights_only=True)['meta']
    assert list(meta['dataset_meta']['classes']) == ['background', 'LV', 'Myo', 'RV']

    tested = mim(
        *('test', 'mmsegmentation', config, '--checkpoint', str(file)),
        *('--work-dir', str(tmp_path / 'test')),
        root=tmp_path,
        options=options,
    )
    figures = r'aAcc: ([\d.]+) +mIoU: ([\d.]+) +mAcc: ([\d.]+) +mDice: ([\d.]+)'
    assert re.findall(figures, tested)[-1] == re.findall(figures, terminal)[-1]
    imported = (tmp_path / 'imported.txt').read_text().splitlines()
    assert imported.count('mmseg swin_ext torch') == 2
    assert not any('mmdet' in line for line in imported)
