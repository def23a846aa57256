"""A training whose steps are timed with and without the hooks of this package."""

from __future__ import annotations

import copy
import random
import sys
import threading
import time
from collections import defaultdict

import torch
from mmengine.config import Config
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from tqdm import trange

from swin_ext.benchmarks.hooks import BEFORE_STEP, MODES, OWN

WARM_UP = 5  # steps


class AlternatingHooks:
    """Calls the hooks of a runner, ours or not, and keeps how long ours take in each step."""

    def __init__(self, runner):
        self._runner = runner
        self.with_ours = True
        self.step_seconds = defaultdict(float)  # of the current step, by hook

    def __call__(self, point: str, **kwargs) -> None:
        for hook in self._runner.hooks:
            name = type(hook).__name__
            if not type(hook).__module__.startswith(OWN):
                getattr(hook, point, lambda *a, **k: None)(self._runner, **kwargs)
            elif self.with_ours and hasattr(hook, point):
                start = time.perf_counter()
                getattr(hook, point)(self._runner, **kwargs)
                self.step_seconds[name] += time.perf_counter() - start


@LOOPS.register_module()
class AlternatingLoop(EpochBasedTrainLoop):
    """Takes steps with and without our hooks; `results` has their seconds.

    Args:
        num_blocks: Blocks of each kind.
        block: Steps of a block.
    """

    def __init__(self, runner, dataloader, num_blocks: int, block: int):
        super().__init__(runner, dataloader, max_epochs=1)
        self.num_blocks, self.block = num_blocks, block
        self._max_iters = (
            WARM_UP
            + len(MODES) * num_blocks * block
            + (len(BEFORE_STEP) * (num_blocks * block // 2))
        )
        self.results = dict(
            with_s=[], without_s=[], hooks_s=defaultdict(list), thread_share=0.0, saving_s={}
        )

    def run(self):
        runner = self.runner
        hooks = runner.call_hook = AlternatingHooks(runner)
        batch = next(iter(self.dataloader))
        synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        hooks('before_train')
        hooks('before_train_epoch')
        runner.model.train()
        for idx in range(WARM_UP):
            self.run_iter(idx, batch)
        start_s, start_threads_s = time.perf_counter(), own_threads_seconds()
        for number in trange(len(MODES) * self.num_blocks, desc='blocks'):
            mode = MODES[(number + 1) // 2 % 2]
            hooks.with_ours = mode == 'with'
            for idx in range(self.block):
                hooks.step_seconds.clear()
                synchronize()
                start = time.perf_counter()
                self.run_iter(idx, batch)
                synchronize()
                self.results[f'{mode}_s'].append(time.perf_counter() - start)
                if hooks.with_ours:
                    for name, seconds in hooks.step_seconds.items():
                        self.results['hooks_s'][name].append(seconds)
        self.results['thread_share'] = (own_threads_seconds() - start_threads_s) / (
            time.perf_counter() - start_s
        )
        hooks.with_ours = False
        self.results['saving_s'] = self.time_saving(batch, synchronize)
        hooks.with_ours = True
        hooks('after_train_epoch')
        hooks('after_train')
        return runner.model

    def time_saving(self, batch, synchronize) -> dict[str, list[tuple[float, float]]]:
        """Seconds of each of `BEFORE_STEP`, and together with the step behind it."""
        runner = self.runner
        actions = dict(
            nothing=lambda: None,
            copy=lambda: copy.deepcopy(
                (runner.model.state_dict(), runner.optim_wrapper.state_dict())
            ),
            checkpoint=lambda: runner.save_checkpoint(runner.work_dir, 'benchmark.pth'),
        )
        seconds = {name: [] for name in BEFORE_STEP}
        order = random.Random(0)
        for _ in trange(self.num_blocks * self.block // 2, desc='saving'):
            for name in order.sample(BEFORE_STEP, len(BEFORE_STEP)):
                runner.checkpoint_writer.flush()
                synchronize()
                start = time.perf_counter()
                kept = actions[name]()
                acted = time.perf_counter()
                self.run_iter(0, batch)
                synchronize()
                seconds[name].append((acted - start, time.perf_counter() - start))
                del kept
        return seconds


def own_threads_seconds() -> float:
    """Processor time that the running threads of this package have used."""
    return sum(
        time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
        for thread in threading.enumerate()
        if thread.name.startswith(OWN)
    )


def benchmark(cfg: Config, num_blocks: int, block: int) -> dict:
    """Train as `cfg` says, but for the loop.

    Returns:
        `with_s`, `without_s`: seconds of each step; `hooks_s`: seconds in each of our hooks, by
        name, for steps with them; `thread_share`: processor time of our threads by wall time;
        `saving_s`: seconds of what precedes a step, and with the step.
    """
    cfg.train_cfg = dict(type='AlternatingLoop', num_blocks=num_blocks, block=block)
    cfg.pop('max_epochs', None)
    cfg.param_scheduler = None  # made for the length of a real training
    cfg.default_hooks.logger.interval = block
    # MMEngine keeps loggers and visualizers by name, also for the next runner of a process.
    cfg.experiment_name = cfg.visualizer.name = f'benchmark_hooks_{time.monotonic_ns()}'
    for split in ('val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg[f'{split}_{part}'] = None
    # It waits for validations, and refuses to train without any.
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks', ()) if hook['type'] != 'BestCheckpointHook'
    ]
    for hook in (*cfg.default_hooks.values(), *cfg.custom_hooks):
        if 'Checkpoint' in hook['type'] and 'interval' in hook:
            hook.update(interval=sys.maxsize, save_last=False)
            hook.pop('save_best', None)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    runner.train()
    return runner.train_loop.results
