"""Plot the losses, the learning rate and the mAP of a training run.

    python tools/plot_curves.py work_dirs/mask_rcnn_swin-s_cmr
"""
from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LOG_PATTERN = '*/vis_data/scalars.json'
BOX_AND_MASK = {'bbox': '#0072B2', 'segm': '#D55E00'}


def read_log(path: Path) -> list[dict]:
    """Read one scalar log of MMEngine's LocalVisBackend.

    Training lines count ``step`` in iterations. Validation lines do so too or, by default, in
    epochs, which are never more than the iterations logged before: the larger of the two is taken,
    exact in the first case and early by less than the logging interval in the second.

    Returns:
        The scalars of each line, all with ``step`` in iterations. Empty if the run did not train.

    Raises:
        ValueError: a line other than the last is no JSON object with a step.
    """
    lines = path.read_text().splitlines()
    records, iteration = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                print(f'{path}, line {number}: cut short, skipped (is the run still writing, or '
                      'was it killed?)', file=sys.stderr)
                continue
            raise ValueError(f'{path}, line {number}: not JSON ({error}); is this a scalar log of '
                             'MMEngine?') from error
        if not isinstance(record, dict) or 'step' not in record:
            raise ValueError(f'{path}, line {number}: no JSON object with a step; is this a scalar '
                             'log of MMEngine?')
        if 'loss' in record:
            iteration = record['step']
        records.append({**record, 'step': max(record['step'], iteration)})
    return records if iteration else []


def read_work_dir(work_dir: Path) -> list[dict]:
    """Read the logs of all runs in ``work_dir``, joined in the order of their time stamps.

    A later run replaces what earlier ones logged from its own first step on: all of it if it
    started afresh, the iterations lost after the last checkpoint if it resumed.

    Raises:
        FileNotFoundError: there is no log with training lines.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f'{work_dir} is not a folder')
    records = []
    logs = sorted(work_dir.glob(LOG_PATTERN))
    for log in logs:
        run = read_log(log)
        if run:
            records = [record for record in records if record['step'] < run[0]['step']] + run
    if not records:
        raise FileNotFoundError(f'no training log in {work_dir}: {len(logs)} files match '
                                f'{LOG_PATTERN}, none with a training line; give the work_dir of a '
                                'training run that has logged at least once')
    return records


def series(records: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines which have ``key``."""
    pairs = [(record['step'], record[key]) for record in records if key in record]
    return [step for step, _ in pairs], [value for _, value in pairs]


def group_losses(keys: list[str]) -> dict[str, list[str]]:
    """Sort the losses of a Mask R-CNN by the part of the network they train; others stay alone."""
    groups = {}
    for key in keys:
        if 'rpn' in key:
            name = 'RPN'
        elif 'mask' in key:
            name = 'mask'
        elif key in ('loss_cls', 'loss_bbox'):
            name = 'RoI box'
        else:
            name = key
        groups.setdefault(name, []).append(key)
    return groups


def plot_losses(ax: Axes, records: list[dict]) -> None:
    ax.plot(*series(records, 'loss'), color='black', linewidth=1.5, label='total')
    keys = sorted({key for record in records for key in record if key.startswith('loss_')})
    for name, members in group_losses(keys).items():
        complete = [record for record in records if all(key in record for key in members)]
        ax.plot([record['step'] for record in complete],
                [sum(record[key] for key in members) for record in complete],
                linewidth=1, label=name)
    ax.set_ylim(bottom=0)
    ax.set_ylabel('training loss')
    ax.legend(frameon=False)


def plot_learning_rate(ax: Axes, records: list[dict]) -> None:
    ax.plot(*series(records, 'lr'), color='0.3', linewidth=1.5)
    ax.set_ylim(bottom=0)
    ax.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    ax.set_ylabel('learning rate')


def plot_map(ax: Axes, records: list[dict]) -> None:
    for kind, colour in BOX_AND_MASK.items():
        for suffix, style, label in (('', '-', 'mAP'), ('_50', ':', 'mAP at IoU 0.5')):
            steps, values = series(records, f'coco/{kind}_mAP{suffix}')
            if not steps:
                continue
            ax.plot(steps, values, style, color=colour, marker='o', markersize=3,
                    label=f'{kind} {label}')
            if not suffix:
                best = max(range(len(values)), key=values.__getitem__)
                ax.annotate(f'{values[best]:.3f}', (steps[best], values[best]), color=colour,
                            textcoords='offset points', xytext=(0, 5), ha='center', fontsize=8)
    ax.set_ylim(0, 1.05)
    ax.set_ylabel('validation mAP')
    if ax.lines:
        ax.legend(frameon=False)
    else:
        ax.text(0.5, 0.5, 'no validation so far', transform=ax.transAxes, ha='center', color='0.4')


def draw_curves(records: list[dict], title: str) -> Figure:
    """Losses, learning rate and mAP one below the other, over the training iteration."""
    figure, axes = plt.subplots(3, sharex=True, figsize=(8, 9), layout='constrained',
                                height_ratios=(3, 1.2, 3))
    figure.suptitle(title)
    for ax, plot in zip(axes, (plot_losses, plot_learning_rate, plot_map)):
        plot(ax, records)
        ax.grid(color='0.9')
        ax.spines[['top', 'right']].set_visible(False)
    axes[-1].set_xlabel('iteration')
    return figure


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='work_dir of one or more training runs')
    parser.add_argument('--out', type=Path, help='PNG to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args(argv)
    try:
        records = read_work_dir(args.work_dir)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    out = args.out or args.work_dir / 'curves.png'
    out.parent.mkdir(parents=True, exist_ok=True)
    figure = draw_curves(records, args.work_dir.resolve().name)
    figure.savefig(out, format='png', dpi=120)
    plt.close(figure)
    print(f'wrote {out}')


if __name__ == '__main__':
    main()
