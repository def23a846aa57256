"""A small training that writes logs, in one process or in two, for the hooks that watch it."""
from __future__ import annotations

import copy
import datetime
import itertools
import multiprocessing
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import SwinExtRunner

BATCH_SIZE = 4
VISUALIZER = dict(type='Visualizer', vis_backends=[
    dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])


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


@MODEL_WRAPPERS.register_module()
class GlooDistributedDataParallel(MMDistributedDataParallel):
    """Without the number of a GPU, which mmengine's Runner always gives."""

    def __init__(self, module, device_ids=None, **kwargs):
        super().__init__(module, **kwargs)


_count = itertools.count()


def make_runner(work_dir, hooks=(), dataset=None, max_epochs=2, val_interval=None, val_dataset=None,
                val_evaluator=(), log_interval=1, model=None, **kwargs):
    """A runner that logs each iteration, and validations by their epoch, as MMEngine does."""
    loader = dict(dataset=dataset or Numbers(), batch_size=BATCH_SIZE, num_workers=0,
                  sampler=dict(type='DefaultSampler', shuffle=False))
    if val_interval:
        kwargs.update(val_dataloader=dict(loader, dataset=val_dataset or Numbers()),
                      val_cfg=dict(), val_evaluator=list(val_evaluator))
    return SwinExtRunner(
        model=model or Regression(), work_dir=str(work_dir), train_dataloader=loader,
        train_cfg=dict(type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_begin=1,
                       val_interval=val_interval or 10**6),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=log_interval),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=list(hooks), visualizer=copy.deepcopy(VISUALIZER), randomness=dict(seed=0),
        cfg=dict(model_wrapper_cfg=dict(type='GlooDistributedDataParallel')),
        experiment_name=f'watched-{os.getpid()}-{next(_count)}', **kwargs)


def log_of(runner) -> str:
    """What a runner has logged."""
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def run_on_two_ranks(function, folder: Path) -> list:
    """Call `function(rank, folder)` in two processes that form a group; return their results."""
    # A server that imports once, and has no autograd threads that forking would break.
    multiprocessing.set_forkserver_preload(['swin_ext'])
    torch.multiprocessing.start_processes(
        _run_rank, (function, str(folder)), nprocs=2, start_method='forkserver')
    return [torch.load(folder / f'rank_{rank}.pth') for rank in range(2)]


def _run_rank(rank, function, folder):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    if 'lo' in dict(map(reversed, socket.if_nameindex())):  # name resolution may need a network
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=2,
        timeout=datetime.timedelta(seconds=60))
    torch.save(function(rank, Path(folder)), Path(folder) / f'rank_{rank}.pth')
    dist.destroy_process_group()
