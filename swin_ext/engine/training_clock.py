"""The time that a training takes: its iterations with their data, and nothing else."""

from __future__ import annotations

import resource
import time

import torch

KIB_PER_MIB = 2**10
CLOCKS = ('cpu', 'wall')


class TrainingClock:
    """Adds up processor and wall time between `start` and `pause`.

    Processor time is that of all threads of this process. Workers of data loaders are processes of
    their own and do not count, nor does a GPU.

    Attributes:
        seconds: Since the first start, by 'cpu' and 'wall'.
    """

    def __init__(self, seconds: dict[str, float] | None = None) -> None:
        self.seconds = dict(seconds or dict.fromkeys(CLOCKS, 0.0))
        self._since: dict[str, float] | None = None

    def start(self) -> None:
        """Count from now on."""
        self._since = _now()

    def pause(self) -> None:
        """Count no more until the next `start`."""
        self.update()
        self._since = None

    def update(self) -> dict[str, float]:
        """Add what has passed, and return `seconds`."""
        if self._since is not None:
            now = _now()
            for name, since in self._since.items():
                self.seconds[name] += now[name] - since
            self._since = now
        return self.seconds


def _now() -> dict[str, float]:
    return dict(cpu=time.process_time(), wall=time.perf_counter())


def peak_memory_mib() -> float:
    """The most memory that this process has used: of the GPU in use, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KIB_PER_MIB
