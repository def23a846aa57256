"""The key-value store of the ranks of a run."""

from __future__ import annotations

import torch.distributed as dist


def store_of_ranks() -> dist.Store | None:
    """What the ranks formed their group with; None where there is but one.

    Ranks read and write it at times of their own, which no collective can. PyTorch gives it out by
    a private function alone (2.1 to 2.11; https://github.com/pytorch/pytorch,
    torch/distributed/distributed_c10d.py), whoever formed the group: launchers other than this
    package's runner do. This is the one place that calls it.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store()
