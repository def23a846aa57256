"""Time of a data-parallel training step on many GPUs, on paper; docs/scaling.md has its limits."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Seconds a step of a ring, of NCCL's own model of its `Simple` protocol, and seconds before all:
# hwLat and baseLat in https://github.com/NVIDIA/nccl/blob/01afd20/src/graph/tuning.cc
NVLINK_LATENCY, NETWORK_LATENCY, START_LATENCY = 3.4e-6, 9.6e-6, 8.4e-6


@dataclass(frozen=True)
class Cluster:
    """Bytes per second of one direction: of each GPU's NVLink, and of a node's network.

    NCCL lays a ring for each network port, with its share of the bytes, so that all ports of a node
    together carry what one GPU of a single ring would send.
    """

    name: str
    in_node: float
    between_nodes: float
    gpus_per_node: int = 8


# DGX A100: NVLink 600 GB/s both ways, eight ports of HDR InfiniBand (200 Gb/s) in a node
# (https://developer.nvidia.com/blog/defining-ai-innovation-with-dgx-a100); NCCL does not count on
# more than 235 GB/s in a node of A100 (tuning.cc, compCap80). And the same nodes with one port of
# 100 Gb/s Ethernet.
CLUSTERS = (Cluster('InfiniBand', 235e9, 8 * 25e9), Cluster('Ethernet', 235e9, 12.5e9))


def all_reduce_seconds(
    num_bytes: float, num_gpus: int, cluster: Cluster, buckets: int = 1
) -> float:
    """A ring: each GPU sends 2 (N - 1) / N of the bytes, in 2 (N - 1) steps, for each bucket."""
    if num_gpus == 1:
        return 0.0
    num_nodes = math.ceil(num_gpus / cluster.gpus_per_node)
    bandwidth = cluster.in_node if num_nodes == 1 else cluster.between_nodes
    between = 2 * (num_nodes - 1)
    latency = START_LATENCY + between * NETWORK_LATENCY
    latency += (2 * (num_gpus - 1) - between) * NVLINK_LATENCY
    return buckets * latency + 2 * (num_gpus - 1) / num_gpus * num_bytes / bandwidth


def step_seconds(
    compute: float,
    num_bytes: float,
    num_gpus: int,
    cluster: Cluster,
    bucket_bytes: float = 25 * 2**20,
    accumulate: int = 1,
    spread: float = 0.0,
) -> float:
    """One update.

    Args:
        compute: Seconds of forward and backward pass, of a batch on one GPU.
        num_bytes: Of the gradients.
        num_gpus: N.
        cluster: Bandwidths.
        bucket_bytes: Of a bucket of `DistributedDataParallel`; 25 MiB is its default.
        accumulate: Batches of each GPU before gradients are exchanged.
        spread: Standard deviation of `compute` between batches, relative to it. The slowest of N
            takes sqrt(2 ln N) of it longer, as the largest of N normal numbers does.

    Returns:
        Seconds. Exchange hides behind the last backward pass, two thirds of `compute`, but for its
        last bucket, which is ready when that pass ends.
    """
    buckets = max(1, math.ceil(num_bytes / bucket_bytes))
    exchange = all_reduce_seconds(num_bytes, num_gpus, cluster, buckets)
    exposed = max(exchange / buckets, exchange - compute * 2 / 3)
    slowest = math.sqrt(2 * math.log(num_gpus)) * spread * compute * math.sqrt(accumulate)
    return accumulate * compute + exposed + slowest


def table(compute: float, num_bytes: float, spread: float) -> str:
    """Efficiencies, single GPU's time over that of a step, for 8 to 1,024 GPUs."""
    ways = {
        'as it is': {},
        'bf16': dict(num_bytes=num_bytes / 2),
        'accumulate 4': dict(accumulate=4),
        'both': dict(num_bytes=num_bytes / 2, accumulate=4),
    }
    lines = [f'| GPUs | network | exchange [ms] | {" | ".join(ways)} |', '| ---: ' * 7 + '|']
    for cluster in CLUSTERS:
        for power in range(3, 11):
            num_gpus = 2**power
            cells = []
            for change in ways.values():
                told = {**dict(compute=compute, num_bytes=num_bytes, spread=spread), **change}
                ideal = compute * told.get('accumulate', 1)
                cells.append(
                    f'{ideal / step_seconds(num_gpus=num_gpus, cluster=cluster, **told):.0%}'
                )
            buckets = max(1, math.ceil(num_bytes / (25 * 2**20)))
            exchange = all_reduce_seconds(num_bytes, num_gpus, cluster, buckets)
            lines.append(
                f'| {num_gpus} | {cluster.name} | {exchange * 1e3:.1f} | {" | ".join(cells)} |'
            )
    return '\n'.join(lines)
