"""A training that takes milliseconds per iteration and saves some MB."""

from __future__ import annotations

import itertools
import os

import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import EpochTrainLoopWithIterVal, SwinExtRunner  # noqa: F401 (registered)

_count = itertools.count()


class ToyData(Dataset):
    metainfo = dict(classes=('LV', 'Myo'))

    def __len__(self):
        return 20

    def __getitem__(self, idx):
        return dict(inputs=torch.tensor([idx / 10, 1.0]))


class ToyModel(BaseModel):
    """Fits y = x0**2; `payload` makes its checkpoints larger."""

    def __init__(self, payload: int = 1000):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.register_buffer('payload', torch.arange(payload, dtype=torch.float32))

    def forward(self, inputs, mode):
        x = torch.stack(list(inputs))
        error = (self.layers(x)[:, 0] - x[:, 0] ** 2).abs()
        return dict(loss=error.mean()) if mode == 'loss' else list(error)


class ToyMetric(BaseMetric):
    """The mean error as `toy/loss`, or `figures[i]` at iteration 5 i + 5."""

    default_prefix = 'toy'

    def __init__(self, figures=None):
        super().__init__()
        self.figures = figures

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        if self.figures is not None:
            # The hub has the index of the last iteration, or that of the next if just resumed.
            iteration = MessageHub.get_current_instance().get_info('iter', 1)
            return self.figures[(iteration + 4) // 5 - 1]
        return dict(loss=float(torch.stack(results).mean()))


def make_runner(
    work_dir,
    checkpoint=None,
    hooks=(),
    max_epochs=2,
    val_interval=5,
    metric=None,
    payload=1000,
    runner_type=SwinExtRunner,
    default_hooks=None,
    **kwargs,
) -> Runner:
    """Ten iterations an epoch; without upstream's report of the environment, which takes long."""
    torch.manual_seed(0)
    loader = dict(
        dataset=ToyData(),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    # A class of its own: other tests look at that report.
    runner_type = type(runner_type.__name__, (runner_type,), {'_log_env': lambda *_: None})
    # What MMEngine keeps by name, two of one second would share: an id may come again.
    kwargs.setdefault('experiment_name', f'toy-{os.getpid()}-{next(_count)}')
    return runner_type(
        model=ToyModel(payload),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        val_evaluator=[metric or ToyMetric()],
        val_cfg=dict(),
        train_cfg=dict(
            type='EpochTrainLoopWithIterVal',
            max_epochs=max_epochs,
            val_begin=1,
            val_interval=val_interval,
        ),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=8)],
        default_hooks=dict(
            checkpoint=checkpoint
            or dict(type='AtomicCheckpointHook', by_epoch=False, interval=4, max_keep_ckpts=2),
            **(default_hooks or {}),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        log_level='WARNING',
        **kwargs,
    )
