"""Logs what each GPU does, how fast training is and how long it waits for data."""

from __future__ import annotations

import functools
import os
import socket
import time
from collections import deque

import torch
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks.device_stats import MIB, CPUReader, GPUReader, Sampler
from swin_ext.engine.hooks.logged_iterations import is_logged

# Ranks of DistributedDataParallel take equally long but for this; then the one that waits for data
# is the one the others wait for.
SAME_TIME = 0.1


@HOOKS.register_module()
class GPUStatsHook(Hook):
    """Watch the device of each rank, throughput and data loading.

    Whenever `LoggerHook` logs a training iteration, these join its line and every visualizer
    backend, as means since the last line: `gpu/util_percent`, `gpu/memory_used_mib` (of all
    processes), `gpu/temperature_c` and `gpu/power_w` from NVML; `gpu/memory_peak_mib` and
    `gpu/memory_reserved_mib` of PyTorch's allocator; `samples_per_s`; `data_wait_percent`, the
    share of time from the end of an iteration to the arrival of the next batch. Without a GPU or
    NVML: `cpu/util_percent` (100 for each busy core), `cpu/rss_mib`, `cpu/machine_memory_percent`.

    With several ranks the line has the sum of `samples_per_s`, the greatest memory, temperature
    and wait, the means of the others, and names `slowest_rank` and `fullest_rank`; backends get the
    values of each, as `rank0/gpu/power_w`. All are of the time up to the logged iteration.

    Args:
        sample_interval_s: Seconds between two readings of the device, in a thread of their own.
        wait_warning_percent: Share of time spent waiting for data from which to warn, once.
        wait_window: Iterations over which this share is taken.
    """

    # Of this package only PreemptionHook comes as late, and takes no time while the run goes on:
    # the time until the next iteration is the data loader's, and not that of a hook that saves.
    priority = 'LOWEST'

    def __init__(
        self,
        sample_interval_s: float = 1.0,
        wait_warning_percent: float = 30,
        wait_window: int = 100,
    ):
        if not sample_interval_s > 0:
            raise SettingError(
                f'GPUStatsHook: sample_interval_s={sample_interval_s} must be above 0'
            )
        if wait_window < 1:
            raise SettingError(f'GPUStatsHook: wait_window={wait_window} must be at least 1')
        self.sample_interval_s = sample_interval_s
        self.wait_warning_percent = wait_warning_percent
        self._recent = deque(maxlen=wait_window)  # (seconds waited, seconds of the iteration)
        self._sampler = None
        self._warned = False
        self._reported = set()

    def before_train(self, runner: Runner) -> None:
        self._device = device_of(runner.model)
        readers = [CPUReader]
        if self._device.type == 'cuda':
            readers.insert(0, functools.partial(GPUReader, self._device.index))
        self._sampler = Sampler(readers, self.sample_interval_s)
        self._sampler.start()
        self._reset()

    def _reset(self) -> None:
        self._num_iters = self._num_samples = 0
        self._waited_s = self._total_s = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        self._idle_since = time.perf_counter()

    def after_val(self, runner: Runner) -> None:
        self._idle_since = time.perf_counter()

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._step_since = time.perf_counter()
        self._size = batch_size(data_batch, runner)
        # For whoever shows it; it is of this moment, and not for checkpoints.
        runner.message_hub.update_info('device_status', self.status(), resumed=False)
        # The line is written before the last hooks have run: it gets what is known until here.
        if is_logged(runner, batch_idx):
            self._report(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        now = time.perf_counter()
        waited, total = self._step_since - self._idle_since, now - self._idle_since
        self._num_iters += 1
        self._num_samples += self._size
        self._waited_s += waited
        self._total_s += total
        self._recent.append((waited, total))
        self._idle_since = now

    def after_train(self, runner: Runner) -> None:
        self.close(runner)

    def close(self, runner: Runner) -> None:
        if self._sampler is not None:
            self._sampler.stop()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out what is of this machine: a resumed run would log it until it knows better."""
        hub = checkpoint['message_hub']
        for part in ('log_scalars', 'resumed_keys'):
            hub[part] = type(hub[part])(
                (key, value) for key, value in hub[part].items() if key not in self._reported
            )

    def status(self) -> str:
        """What the device does, in a few characters, as `device_status` of the message hub."""
        values = self._sampler.latest if self._sampler else {}
        reader = self._sampler.reader if self._sampler else None
        parts = [
            f'{values[name]:.0f} %'
            for name in ('gpu/util_percent', 'cpu/util_percent')
            if name in values
        ]
        parts += [
            f'{values[name] / 1024:.1f}/{reader.total_mib / 1024:.0f} GiB'
            for name in ('gpu/memory_used_mib', 'cpu/rss_mib')
            if name in values
        ]
        return f'{reader.name} {" ".join(parts)}' if parts else ''

    def _report(self, runner: Runner) -> None:
        values = self._sampler.take()
        if self._device.type == 'cuda':
            values['gpu/memory_peak_mib'] = torch.cuda.max_memory_allocated(self._device) / MIB
            values['gpu/memory_reserved_mib'] = torch.cuda.memory_reserved(self._device) / MIB
        if self._num_iters:
            values['samples_per_s'] = self._num_samples / self._total_s
            values['data_wait_percent'] = 100 * self._waited_s / self._total_s
            values['iter_s'] = self._total_s / self._num_iters
        self._reset()
        notes = [f'GPUStatsHook: {note}' for note in self._sampler.failures]
        self._sampler.failures.clear()
        notes += self._starved(runner)

        ranks = all_gather_object((values, notes, socket.gethostname()))
        for rank, (_, notes, host) in enumerate(ranks):
            for note in notes:
                runner.logger.warning(f'Rank {rank} ({host}): {note}' if len(ranks) > 1 else note)
        ranks = [values for values, _, _ in ranks]
        if len(ranks) > 1:
            runner.visualizer.add_scalars(
                {
                    f'rank{rank}/{name}': rounded(name, value)
                    for rank, values in enumerate(ranks)
                    for name, value in values.items()
                },
                step=runner.iter + 1,
            )
        self._to_log_line(runner, summarise(ranks))

    def _to_log_line(self, runner: Runner, summary: dict[str, float]) -> None:
        for name, value in summary.items():
            runner.message_hub.update_scalar(f'train/{name}', rounded(name, value))
        keys = {f'train/{name}' for name in summary}
        for key in self._reported - keys:  # no longer known: LoggerHook would repeat the last value
            runner.message_hub.log_scalars.pop(key, None)
        self._reported |= keys

    def _starved(self, runner: Runner) -> list[str]:
        """A warning, once, where the last iterations mostly waited for data."""
        if self._warned or len(self._recent) < self._recent.maxlen:
            return []
        waited, total = (sum(times) for times in zip(*self._recent))
        percent = 100 * waited / total
        if percent < self.wait_warning_percent:
            return []
        self._warned = True
        workers = runner.train_dataloader.num_workers
        advice = (
            'train_dataloader.num_workers=4 train_dataloader.persistent_workers=True'
            if workers == 0
            else f'train_dataloader.num_workers={2 * workers}'
        )
        return [
            f'{percent:.0f} % of the time of the last {len(self._recent)} iterations was spent '
            f'waiting for data, with num_workers={workers} on {os.cpu_count()} cores. Try '
            f'--cfg-options {advice}; if that does not help, put the images on a faster disk, '
            'or store them at the size that training needs.'
        ]


def device_of(model: torch.nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    return torch.device('cpu') if parameter is None else parameter.device


def batch_size(data_batch, runner: Runner) -> int:
    """Samples of a batch; where it is of unknown structure, what the data loader was told."""
    if isinstance(data_batch, dict) and 'inputs' in data_batch:
        return len(data_batch['inputs'])
    return runner.train_dataloader.batch_size or runner.train_dataloader.batch_sampler.batch_size


def rounded(name: str, value: float) -> float:
    """Without the digits that say nothing in a log line."""
    return round(value) if name.endswith(('percent', '_mib', '_c', '_w', '_rank')) else value


def summarise(ranks: list[dict[str, float]]) -> dict[str, float]:
    """The values of the log line from those of each rank; those of a single rank as they are."""
    names = list(dict.fromkeys(name for values in ranks for name in values))
    summary = {}
    for name in names:
        found = [values[name] for values in ranks if name in values]
        if name == 'samples_per_s':
            summary[name] = sum(found)
        elif name == 'data_wait_percent' or '/memory' in name or name.endswith(('rss_mib', '_c')):
            summary[name] = max(found)
        else:
            summary[name] = sum(found) / len(found)
    summary.pop('iter_s', None)  # LoggerHook has it as `time`
    if len(ranks) > 1:
        summary.update(slowest_and_fullest(ranks))
    return summary


def slowest_and_fullest(ranks: list[dict[str, float]]) -> dict[str, int]:
    """Ranks that take longest for an iteration, and that use most memory, where these are known.

    Of ranks that take equally long, because each waits for the gradients of all, the one that
    waits longest for its data counts as the slowest.
    """
    named = {}
    times = {rank: values['iter_s'] for rank, values in enumerate(ranks) if 'iter_s' in values}
    if times:
        slow = [
            rank
            for rank, time_s in times.items()
            if time_s >= (1 - SAME_TIME) * max(times.values())
        ]
        named['slowest_rank'] = max(slow, key=lambda rank: ranks[rank]['data_wait_percent'])
    for name in ('gpu/memory_used_mib', 'gpu/memory_peak_mib', 'cpu/rss_mib'):
        full = {rank: values[name] for rank, values in enumerate(ranks) if name in values}
        if len(full) == len(ranks):
            named['fullest_rank'] = max(full, key=full.get)
            break
    return named
