"""Steps and exchange of gradients on a few processes here, and a model of many GPUs."""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from swin_ext.benchmarks.scaling_model import table as model_table

# `exchange alone` is of as many bytes as the gradients, at once.
KINDS = ('step', 'without exchange', 'exchange alone')


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description='Measure a training step on 1, 2, 4 processes; model 8 to 1,024 GPUs.'
    )
    parser.add_argument('config', type=Path)
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--size', type=int, default=192, help='of the images, in px')
    parser.add_argument('--batch', type=int, default=2, help='images of each process')
    parser.add_argument('--repeats', type=int, default=10, help='of each kind; medians are shown')
    parser.add_argument('--gpu-ms', type=float, default=150, help='step of the model of many GPUs')
    parser.add_argument('--gpu-mb', type=float, default=276, help='its gradients, in MB')
    parser.add_argument('--spread', type=float, default=0.05, help='of its steps, relative')
    args = parser.parse_args(argv)
    if min(*args.processes, args.size, args.batch, args.repeats) < 1:
        parser.error('numbers must be at least 1')
    rows = []
    for number in args.processes:
        print(f'{number} processes ...', flush=True)
        rows.append(row(number, args.batch, measure(number, args)))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    print(f'\n{cores} cores, a thread for each process, gloo; medians [ms]\n')
    names = ('processes', *KINDS, 'MB sent by each', 'images/s', 'spread of steps')
    print(f'| {" | ".join(names)} |\n{"| ---: " * len(names)}|')
    print('\n'.join(rows))
    print(f'\nOn paper: {args.gpu_ms:g} ms, {args.gpu_mb:g} MB, spread {args.spread:g}\n')
    print(model_table(args.gpu_ms / 1e3, args.gpu_mb * 1e6, args.spread))
    return 0


def row(number: int, batch: int, found: dict) -> str:
    """A line of the table; `found` has seconds by kind, and `bytes` of the gradients."""
    medians = [statistics.median(found[kind]) for kind in KINDS]
    alone = found['without exchange']
    spread = statistics.pstdev(alone) / statistics.mean(alone)
    sent = 2 * (number - 1) / number * found['bytes'] / 1e6
    cells = [f'{1e3 * median:.1f}' for median in medians]
    return (
        f'| {number} | {" | ".join(cells)} | {sent:.1f} | {number * batch / medians[0]:.2f} '
        f'| {spread:.2f} |'
    )


def measure(number: int, args: argparse.Namespace) -> dict:
    """Seconds of each repeat by kind, on the first of `number` processes."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _measure_rank, (number, args, folder), nprocs=number, start_method='spawn'
        )
        return torch.load(f'{folder}/found.pth', weights_only=True)


def _measure_rank(rank: int, number: int, args: argparse.Namespace, folder: str) -> None:
    import torch
    import torch.distributed as dist
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config
    from mmengine.registry import MODEL_WRAPPERS, DefaultScope
    from tqdm import tqdm

    import swin_ext.registration  # noqa: F401  # model and wrapper are found by name

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo', init_method=f'file://{folder}/rendezvous', rank=rank, world_size=number
    )
    torch.manual_seed(rank)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(args.config).model)
    model = MODEL_WRAPPERS.get('SwinExtDistributedDataParallel')(model)
    model.train()
    shape = [3, args.size, args.size]
    data = demo_mm_inputs(args.batch, [shape] * args.batch, num_classes=3, with_mask=True)
    data = model.module.data_preprocessor(data, training=True)
    trained = [p for p in model.parameters() if p.requires_grad]
    flat = torch.zeros(sum(p.numel() for p in trained))

    def step() -> None:
        loss, _ = model.module.parse_losses(model(**data, mode='loss'))
        loss.backward()
        for parameter in trained:
            parameter.grad = None

    def alone() -> None:
        with model.no_sync():
            step()

    actions = dict(zip(KINDS, (step, alone, lambda: dist.all_reduce(flat))))
    found = {kind: [] for kind in KINDS}
    for repeat in tqdm(range(args.repeats + 1), disable=rank > 0, unit='round'):
        for kind, action in actions.items():  # in turns, for the machine may be slower for a while
            dist.barrier()
            start = time.perf_counter()
            action()
            if repeat:  # the first is slower
                found[kind].append(time.perf_counter() - start)
    if rank == 0:
        torch.save(dict(found, bytes=4 * flat.numel()), f'{folder}/found.pth')
    dist.barrier()
