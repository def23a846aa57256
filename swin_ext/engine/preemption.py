"""Signals that announce the end of a run, seen by all its ranks at the same iteration.

No rank may stop alone, so each iteration ends with a reduction over ranks of one number: whether a
signal has come. It is not waited for in that iteration but at the end of the next one, when it has
long arrived, and it goes by gloo from CPU to CPU: no GPU is synchronised. A signal is therefore
acted on one iteration after it was seen.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.dist import get_world_size
from torch import distributed

from swin_ext.utils.shared_store import store_of_ranks

_number = itertools.count()  # of announcements, the same on all ranks


class Announcement:
    """Whether this process, or another rank, was told to end.

    Args:
        signals: Their numbers. From `start` to `stop`, they do nothing but announce.
    """

    def __init__(self, signals: Sequence[signal.Signals]) -> None:
        self.signals = tuple(signals)
        self.received: signal.Signals | None = None
        self._previous: dict = {}
        self._group = self._pending = None
        self._flag = torch.zeros(1, dtype=torch.int32)

    def start(self) -> None:
        """Listen, on all ranks at once. Handlers can be set in the main thread alone."""
        if threading.current_thread() is threading.main_thread():
            for number in self.signals:
                self._previous[number] = signal.signal(number, self._receive)
        if get_world_size() > 1 and self._group is None:
            self._group = distributed.new_group(backend='gloo')
            self._key = f'swin_ext/preempted/{next(_number)}'

    def stop(self) -> None:
        """Let the signals do again what they did before."""
        while self._previous:
            number, handler = self._previous.popitem()
            if signal.getsignal(number) == self._receive:
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def at_iteration(self) -> bool:
        """Whether all ranks end now. To be called by each of them after each iteration."""
        if self._group is None:
            return self.received is not None
        ends = self.settle()
        self._flag.fill_(self.received is not None)
        self._pending = distributed.all_reduce(
            self._flag, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )
        return ends

    def settle(self) -> bool:
        """Wait for what the iteration before has sent, and say whether a rank had a signal."""
        if self._pending is None:
            return False
        self._pending.wait()
        self._pending = None
        return bool(self._flag.item())

    def is_noticed(self) -> bool:
        """Whether any rank is known to have a signal, at times when ranks do not go in step."""
        if self._group is None:
            return self.received is not None
        store = store_of_ranks()
        if self.received is not None:
            store.set(self._key, '1')
            return True
        return store.check([self._key])

    def agree(self) -> bool:
        """Whether any rank has a signal, the same on all ranks, which all come here."""
        if self._group is None:
            return self.received is not None
        flag = torch.tensor([self.received is not None], dtype=torch.int32)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._group)
        return bool(flag.item())

    def _receive(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number)


class UndisturbedWorker:
    """Lets the worker of a data loader outlive signals that are sent to all processes of a job.

    Slurm signals each process of a step. The training needs its workers to end the iteration, and
    one that dies is an error. As in PyTorch's own workers, SIGTERM of the parent ends them, and so
    does the end of the parent.

    Args:
        init: The `worker_init_fn` that is to be called as well.
    """

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker_id: int) -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        if self.init is not None:
            self.init(worker_id)


def _end_with_parent(parent: int) -> None:
    while True:
        if signal.sigwaitinfo({signal.SIGTERM}).si_pid == parent:
            os._exit(0)
