"""Measures what the hooks of this package, and saving a checkpoint, add to a training step."""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np

OWN = 'swin_ext'
MODES = ('with', 'without')
BEFORE_STEP = ('nothing', 'copy', 'checkpoint')
LIMIT = 1.02  # ratio of the medians


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


def read_options(options: list[str]) -> dict:
    """Read KEY=VALUE as mmengine does, whose import costs seconds that `--help` need not take."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args(['--cfg-options', *options] if options else []).cfg_options


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', type=Path)
    parser.add_argument('--blocks', type=int, default=6, help='blocks of each kind (default: 6)')
    parser.add_argument('--block', type=int, default=10, help='steps of a block (default: 10)')
    parser.add_argument('--json', type=Path, help='file for all times')
    parser.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', default=[])
    args = parser.parse_args(argv)
    if min(args.blocks, args.block) < 1:
        parser.error('--blocks and --block must be at least 1')

    import torch
    from mmengine.config import Config

    import swin_ext.registration  # noqa: F401
    from swin_ext.benchmarks.hooks_loop import benchmark

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(read_options(args.cfg_options))
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
