"""A training of a second, in which everything is drawn at random that can be."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import SwinExtRunner

NUM_SAMPLES, BATCH_SIZE, MAX_EPOCHS = 11, 3, 3
EPOCH = 4  # iterations
MAX_ITERS = EPOCH * MAX_EPOCHS


@DATASETS.register_module()
class NoisyDataset(Dataset):
    """Vectors with noise from each of the three generators."""

    metainfo = {}

    def __init__(self, noisy: bool = True):
        self.noisy = noisy

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        noise = [0.5, 0.5, 0.5]
        if self.noisy:
            noise = [random.random(), np.random.rand(), float(torch.rand(()))]
        return dict(inputs=torch.tensor([float(index), *noise]), index=index)


@MODELS.register_module()
class NoisyModel(BaseModel):
    """Dropout, batch norm, and a loss with noise from Python's and NumPy's generators."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)
        self.dtypes = set()  # of the head's output

    def forward(self, inputs, index, mode):
        out = self.head(self.backbone(torch.stack(list(inputs)) / 4))[:, 0]
        if mode == 'predict':
            return [dict(value=value) for value in out.tolist()]
        self.dtypes.add(out.dtype)
        target = torch.tensor([int(i) % 3 for i in index]) + random.random() + np.random.rand()
        return dict(loss=(out.float() - target).square().mean())


@METRICS.register_module()
class MeanValue(BaseMetric):
    """The mean prediction as `toy/value`, or whatever `values` has for the validation's turn."""

    default_prefix = 'toy'

    def __init__(self, values=()):
        super().__init__()
        self.values = list(values)

    def process(self, data_batch, data_samples):
        self.results.extend(sample['value'] for sample in data_samples)

    def compute_metrics(self, results):
        return dict(value=self.values.pop(0) if self.values else float(np.mean(results)))


class Recorder(Hook):
    """Keeps what a training computed, by iteration."""

    priority = 'HIGHEST'

    def __init__(self):
        self.read, self.losses, self.groups, self.validated = {}, {}, {}, {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.read[runner.iter + 1] = torch.stack(list(data_batch['inputs'])).tolist()
        self.groups[runner.iter + 1] = [
            {key: value for key, value in group.items() if key != 'params'}
            for group in runner.optim_wrapper.optimizer.param_groups
        ]

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = outputs['loss'].item()

    def after_val_epoch(self, runner, metrics=None):
        self.validated[runner.iter] = metrics

    @property
    def lrs(self) -> list:
        """Learning rate of the first group in each iteration."""
        return [groups[0]['lr'] for groups in self.groups.values()]


class QuickRunner(SwinExtRunner):
    def _log_env(self, env_cfg):
        """Do not ask for the versions of compilers, which takes long."""


_count = itertools.count()


def runner_args(work_dir: Path, resume_from: Path | None = None, **changes) -> dict:
    """Arguments of a runner; unless it is resumed, it leaves a checkpoint of each iteration.

    Args:
        work_dir: Folder of logs and checkpoints.
        resume_from: Checkpoint.
        changes: Arguments of `Runner`; dicts are merged into those that are here, where None
            removes a key. Also `num_workers`, `sampler` and `seed`.
    """
    num_workers = changes.pop('num_workers', 0)
    loader = dict(
        dataset=dict(type='NoisyDataset'),
        batch_size=BATCH_SIZE,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    kwargs = dict(
        model=dict(type='NoisyModel'),
        work_dir=str(work_dir),
        train_dataloader=dict(
            loader, sampler=dict(type=changes.pop('sampler', 'DefaultSampler'), shuffle=True)
        ),
        # Workers that read for validation are not seeded anew: their transforms must not draw.
        val_dataloader=dict(
            loader,
            dataset=dict(type='NoisyDataset', noisy=num_workers == 0),
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(
            type='EpochTrainLoopWithIterVal', max_epochs=MAX_EPOCHS, val_begin=1, val_interval=3
        ),
        val_cfg=dict(),
        val_evaluator=dict(type='MeanValue'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', by_epoch=False, interval=100 if resume_from else 1
            )
        ),
        randomness=dict(seed=changes.pop('seed', 0)),
        resume=resume_from is not None,
        load_from=resume_from and str(resume_from),
        log_level='ERROR',
        experiment_name=f'noisy-{next(_count)}',
    )
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(kwargs.get(key), dict):
            value = {k: v for k, v in {**kwargs[key], **value}.items() if v is not None}
        kwargs[key] = value
    return kwargs


def make_runner(*args, **kwargs) -> QuickRunner:
    """A runner of `runner_args`, with a `Recorder`."""
    runner = QuickRunner(**runner_args(*args, **kwargs))
    runner.register_hook(Recorder())
    return runner


def train(work_dir: Path, resume_from: Path | None = None, **changes):
    """Train to the end; returns the runner and its recorder."""
    runner = make_runner(work_dir, resume_from, **changes)
    runner.train()
    for loop in (runner.train_loop, runner.val_loop):
        if loop is not None:
            # In reference cycles, persistent workers take seconds to end.
            loop.dataloader._iterator = None
    return runner, recorder_of(runner)


def recorder_of(runner) -> Recorder:
    (recorder,) = (hook for hook in runner.hooks if isinstance(hook, Recorder))
    return recorder
