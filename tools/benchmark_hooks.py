"""Measure what the hooks of this package, and saving a checkpoint, add to a training step.

    python tools/benchmark_hooks.py configs/mask_rcnn_swin-nano_cmr.py \\
        --cfg-options data_root=data/cmr_phantom --json hooks.json

One training, in blocks of as many steps as lie between two log lines: with all hooks, with those of
MMEngine and mmdet alone, and so on in turn (with, without, without, with), so that whatever else
slows the machine slows both alike. Every step gets the same batch, loaded before, so that no
difference between images is measured; a step is everything from one to the next. Threads of this
package run all the time: their processor time is added to the steps with hooks, as if training had
waited for it. Checkpoints and validations are left out.

Then steps alone, steps behind a copy of all weights and optimizer states in memory, and steps
behind a checkpoint, which is written while they run, in random order. Where training uses all
cores itself, the writing takes its share of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import shlex
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import LOOPS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop, Runner
from tqdm import trange

OWN = 'swin_ext'
MODES = ('with', 'without')
BEFORE_STEP = ('nothing', 'copy', 'checkpoint')
WARM_UP = 5  # steps
LIMIT = 1.02  # ratio of the medians


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


def summarise(results: dict) -> dict:
    """Medians and quartiles in ms, their ratio, and the mean time in each hook in microseconds."""
    quartiles = {mode: np.percentile(results[f'{mode}_s'], (25, 50, 75)) * 1000 for mode in MODES}
    quartiles['with'] = quartiles['with'] * (1 + results['thread_share'])
    steps = len(results['with_s'])
    return dict(
        quartiles_ms={mode: values.tolist() for mode, values in quartiles.items()},
        ratio=quartiles['with'][1] / quartiles['without'][1],
        threads_percent=100 * results['thread_share'],
        hooks_us={
            name: dict(median=1e6 * float(np.median(seconds)), mean=1e6 * sum(seconds) / steps)
            for name, seconds in results['hooks_s'].items()
        },
        saving_ms={
            name: (1000 * np.median(seconds, axis=0)).tolist()
            for name, seconds in results['saving_s'].items()
        },
        hooks_percent=100 * sum(map(sum, results['hooks_s'].values())) / sum(results['with_s']),
    )


def table(summary: dict, steps: int) -> str:
    lines = ['| step | median [ms] | quartiles [ms] |', '| --- | --- | --- |']
    for mode in MODES:
        lower, median, upper = summary['quartiles_ms'][mode]
        lines.append(f'| {mode} hooks of {OWN} | {median:.1f} | {lower:.1f}-{upper:.1f} |')
    lines += ['', '| hook | median [us] | mean [us] |', '| --- | --- | --- |']
    for name, values in sorted(summary['hooks_us'].items(), key=lambda item: -item[1]['mean']):
        lines.append(f'| {name} | {values["median"]:.0f} | {values["mean"]:.0f} |')
    lines += [
        '',
        f'{steps} steps of each kind; ratio of the medians {summary["ratio"]:.4f}; '
        f'inside the hooks {summary["hooks_percent"]:.3f} % of the time, log lines included; '
        f'in their threads {summary["threads_percent"]:.3f} %',
        '',
        '| before a step | median [ms] | with the step [ms] |',
        '| --- | --- | --- |',
    ]
    lines += [
        f'| {name} | {alone:.1f} | {with_step:.1f} |'
        for name, (alone, with_step) in summary['saving_ms'].items()
    ]
    return '\n'.join(lines)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('--blocks', type=int, default=6, help='blocks of each kind (default: 6)')
    parser.add_argument('--block', type=int, default=10, help='steps of a block (default: 10)')
    parser.add_argument('--json', type=Path, help='file for all times')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    args = parser.parse_args(argv)
    if min(args.blocks, args.block) < 1:
        parser.error('--blocks and --block must be at least 1')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    with tempfile.TemporaryDirectory() as work_dir:
        cfg.work_dir = work_dir
        results = benchmark(cfg, args.blocks, args.block)
    summary = summarise(results)
    report = dict(
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        versions=dict(python=platform.python_version(), torch=torch.__version__),
        threads=torch.get_num_threads(),
        **summary,
        **results,
    )
    print(f'\n{table(summary, len(results["with_s"]))}')
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1))
        print(f'wrote {args.json}')
    if summary['ratio'] > LIMIT:
        print(f'The hooks add more than {LIMIT - 1:.0%} to the median step.', file=sys.stderr)
    return report


if __name__ == '__main__':
    main()
