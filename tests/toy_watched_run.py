"""A small training that writes logs, in one process or (see `two_ranks`) in two."""

from __future__ import annotations

import copy
import itertools
import os

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import SwinExtRunner

BATCH_SIZE = 4
VISUALIZER = dict(
    type='Visualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)


class Numbers(Dataset):
    """Four batches."""

    metainfo = dict(classes=('LV', 'Myo'))

    def __init__(self, num_samples=4 * BATCH_SIZE):
        self.num_samples = num_samples

    def __len__(self):
        return self.num_samples

    def __getitem__(self, idx):
        return dict(inputs=torch.tensor([idx / 8]), data_samples=BaseDataElement())


class Regression(BaseModel):
    """Predicts what the data samples hold already."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(1, 1)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode != 'loss':
            return data_samples
        out = self.linear(torch.stack(list(inputs)))
        return dict(loss_cls=out.square().mean(), loss_bbox=out.abs().mean())


_count = itertools.count()


def make_runner(
    work_dir,
    hooks=(),
    dataset=None,
    max_epochs=2,
    val_interval=None,
    val_dataset=None,
    val_evaluator=(),
    log_interval=1,
    model=None,
    **kwargs,
):
    """A runner that logs each iteration, and validations by their epoch, as MMEngine does."""
    loader = dict(
        dataset=dataset or Numbers(),
        batch_size=BATCH_SIZE,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    if val_interval:
        kwargs.update(
            val_dataloader=dict(loader, dataset=val_dataset or Numbers()),
            val_cfg=dict(),
            val_evaluator=list(val_evaluator),
        )
    return SwinExtRunner(
        model=model or Regression(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=dict(
            type='EpochTrainLoopWithIterVal',
            max_epochs=max_epochs,
            val_begin=1,
            val_interval=val_interval or 10**6,
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=log_interval),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        ),
        custom_hooks=list(hooks),
        visualizer=copy.deepcopy(VISUALIZER),
        randomness=dict(seed=0),
        cfg=dict(model_wrapper_cfg=dict(type='CPUDistributedDataParallel')),
        experiment_name=f'watched-{os.getpid()}-{next(_count)}',
        **kwargs,
    )
