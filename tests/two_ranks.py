"""What trainings in tests share: two processes that form a group, and the log of a runner."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import socket
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Without the number of a GPU, which mmengine's Runner always gives."""

    def __init__(self, module, device_ids=None, **kwargs):
        super().__init__(module, **kwargs)


def log_of(runner) -> str:
    """What a runner has logged."""
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def run_on_two_ranks(function, folder: Path) -> list:
    """Call `function(rank, folder)` in two processes that form a group; return their results."""
    # A server that imports once, and has no autograd threads that forking would break.
    multiprocessing.set_forkserver_preload(['swin_ext'])
    torch.multiprocessing.start_processes(
        _run_rank, (function, str(folder)), nprocs=2, start_method='forkserver'
    )
    return [torch.load(folder / f'rank_{rank}.pth') for rank in range(2)]


def _run_rank(rank, function, folder):
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    if 'lo' in dict(map(reversed, socket.if_nameindex())):  # name resolution may need a network
        os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    dist.barrier()  # a rank that ends before the other has connected breaks its connection
    torch.save(function(rank, Path(folder)), Path(folder) / f'rank_{rank}.pth')
    # The group ends with the process. `destroy_process_group` may deadlock before torch 2.8
    # (pytorch issue 56297, pull request 154976).
