"""What training on many processes costs: measured here, and computed for clusters."""

from __future__ import annotations

import argparse
import datetime
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Cluster:
    """What the time of a step is computed from.

    Attributes:
        step: Seconds of a step on one GPU, without communication.
        jitter: Standard deviation of a step's seconds, from one rank to the other.
        gradient_bytes: Bytes that are summed over all ranks at each step.
        overlap: Part of the step during which gradients are sent already: the backward pass, but
            for its first layers and the last bucket.
        gpus_per_node: GPUs that share the links of a node.
        node_bandwidth: Bytes a second between the GPUs of a node, of each.
        net_bandwidth: Bytes a second between nodes, of all network cards of a node.
        latency: Seconds of a message between nodes.
        messages: Buckets of gradients, and further small sums, at each step.
    """

    step: float
    jitter: float
    gradient_bytes: float
    overlap: float = 0.5
    gpus_per_node: int = 8
    node_bandwidth: float = 200e9
    net_bandwidth: float = 25e9
    latency: float = 15e-6
    messages: int = 12

    def all_reduce(self, gpus: int) -> float:
        """Seconds of the sums: within each node, then between nodes, by rings; trees of messages.

        A ring of n sends 2 (n - 1) / n times the bytes (Patarasu and Yuan, "Bandwidth optimal
        all-reduce algorithms for clusters of workstations", 2009).
        """
        local = min(gpus, self.gpus_per_node)
        nodes = math.ceil(gpus / self.gpus_per_node)
        within = 2 * (local - 1) / local * self.gradient_bytes / self.node_bandwidth
        between = 2 * (nodes - 1) / nodes * self.gradient_bytes / self.net_bandwidth
        return within + between + 2 * math.log2(nodes) * self.latency * self.messages

    def seconds(self, gpus: int) -> float:
        """Seconds of a step: computing, what is sent after it, and waiting for the slowest rank.

        The largest of n normal numbers exceeds their mean by about sqrt(2 ln n) deviations.
        """
        sent = max(0.0, self.all_reduce(gpus) - self.overlap * self.step)
        return self.step + sent + self.jitter * math.sqrt(2 * math.log(gpus))

    def efficiency(self, gpus: int) -> float:
        """Images a second of each GPU, as a part of those of one GPU alone."""
        return self.step / self.seconds(gpus)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Measure a training step and its all-reduce on processes of this machine, and '
        'compute the step on a cluster.'
    )
    parser.add_argument('--processes', type=int, nargs='+', default=[1, 2, 4])
    parser.add_argument('--arch', default='tiny', help='of SwinBackbone')
    parser.add_argument('--size', type=int, default=224, help='of an image a rank, in pixels')
    parser.add_argument('--repeats', type=int, default=7, help='medians are shown')
    parser.add_argument('--cluster-step', type=float, default=0.25, help='seconds, on one GPU')
    parser.add_argument('--cluster-jitter', type=float, default=0.01, help='seconds')
    parser.add_argument('--cluster-gradients', type=float, default=264, help='MiB')
    parser.add_argument('--cluster-network', type=float, default=25, help='GB/s of a node')
    args = parser.parse_args(argv)

    print(f'{"processes":>9}{"step [s]":>10}{"with DDP":>10}{"gradients [MiB]":>17}{"sum [s]":>9}')
    for number in args.processes:
        step, with_ddp, gradients, reduce = measure(number, args.arch, args.size, args.repeats)
        print(f'{number:>9}{step:>10.3f}{with_ddp:>10.3f}{gradients / MIB:>17.1f}{reduce:>9.3f}')

    cluster = Cluster(
        args.cluster_step,
        args.cluster_jitter,
        args.cluster_gradients * MIB,
        net_bandwidth=args.cluster_network * 1e9,
    )
    print(f'\n{"GPUs":>9}{"sum [ms]":>10}{"step [ms]":>11}{"efficiency":>12}')
    for gpus in (8, 16, 32, 64, 128, 256, 512, 1024):
        times = 1000 * cluster.all_reduce(gpus), 1000 * cluster.seconds(gpus)
        print(f'{gpus:>9}{times[0]:>10.1f}{times[1]:>11.1f}{cluster.efficiency(gpus):>12.1%}')
    return 0


def measure(processes: int, arch: str, size: int, repeats: int) -> tuple[float, ...]:
    """Medians on rank 0: seconds of a step alone and with DDP, bytes, seconds of their sum."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _rank,
            (processes, folder, arch, size, repeats),
            nprocs=processes,
            start_method='spawn',
        )
        return tuple(torch.load(Path(folder) / 'figures.pth'))


def _rank(rank: int, processes: int, folder: str, arch: str, size: int, repeats: int) -> None:
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from swin_ext.models import SwinBackbone

    torch.set_num_threads(1)
    dist.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=processes,
        timeout=datetime.timedelta(minutes=5),
    )
    model = DistributedDataParallel(SwinBackbone(arch=arch, drop_path_rate=0.0))
    images = torch.randn(1, 3, size, size)
    gradients = torch.zeros(sum(p.numel() for p in model.parameters() if p.requires_grad))

    def step() -> None:
        sum(maps.mean() for maps in model(images)).backward()

    def step_alone() -> None:
        with model.no_sync():
            step()

    figures = [
        _median(step_alone, repeats),
        _median(step, repeats),
        gradients.nbytes,
        _median(lambda: dist.all_reduce(gradients), repeats),
    ]
    if rank == 0:
        torch.save(figures, Path(folder) / 'figures.pth')
    dist.barrier()


def _median(action: Callable[[], object], repeats: int) -> float:
    import torch.distributed as dist

    seconds = []
    for _ in range(repeats + 1):  # the first warms up
        dist.barrier()
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])
