"""Curves of a training run: losses, learning rate, validation mAP and throughput."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BOX_AND_MASK = {'bbox': '#0072B2', 'segm': '#D55E00'}
BEST_VALUE = {'bbox': 5, 'segm': -12}  # where it is written, in points above the curve
DPI = 120
INCHES = (8, 10.5)
# Share of the height of each panel, and of the room around them. Fixed, because a layout engine
# would double the time that training waits for the picture.
PANELS = dict(
    height_ratios=(3, 1.2, 3, 1.2), left=0.1, right=0.97, bottom=0.05, top=0.95, hspace=0.14
)


def series(records: list[dict], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the records which have ``key``."""
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
        ax.plot(
            [record['step'] for record in complete],
            [sum(record[key] for key in members) for record in complete],
            linewidth=1,
            label=name,
        )
    steps, values = series(records, 'val/loss')
    if steps:
        ax.plot(steps, values, ':', color='black', marker='o', markersize=3, label='validation')
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
            ax.plot(
                steps,
                values,
                style,
                color=colour,
                marker='o',
                markersize=3,
                label=f'{kind} {label}',
            )
            if not suffix:
                best = max(range(len(values)), key=values.__getitem__)
                ax.annotate(
                    f'{values[best]:.3f}',
                    (steps[best], values[best]),
                    color=colour,
                    textcoords='offset points',
                    xytext=(0, BEST_VALUE[kind]),
                    ha='center',
                    fontsize=8,
                )
    ax.set_ylim(0, 1.05)
    ax.set_ylabel('validation mAP')
    if ax.lines:
        ax.legend(frameon=False)
    else:
        ax.text(0.5, 0.5, 'no validation so far', transform=ax.transAxes, ha='center', color='0.4')


def plot_throughput(ax: Axes, records: list[dict]) -> None:
    """Samples per second of `GPUStatsHook`, or iterations per second where it did not run."""
    steps, values = series(records, 'samples_per_s')
    label = 'samples / s'
    if not steps:
        steps, times = series([r for r in records if 'loss' in r and r.get('time')], 'time')
        values, label = [1 / time for time in times], 'iterations / s'
    ax.plot(steps, values, color='#009E73', linewidth=1.5)
    ax.set_ylim(bottom=0)
    ax.set_ylabel(label)


def draw_curves(records: list[dict], title: str) -> Figure:
    """Losses, learning rate, mAP and throughput one below the other, over the training iteration.

    Args:
        records: Scalars by name, each record with its ``step`` in iterations, in their order.
        title: Title of the figure.
    """
    figure = Figure(figsize=INCHES, dpi=DPI)
    axes = figure.subplots(4, sharex=True, gridspec_kw=PANELS)
    figure.suptitle(title, y=0.98)
    for ax, plot in zip(axes, (plot_losses, plot_learning_rate, plot_map, plot_throughput)):
        plot(ax, records)
        ax.grid(color='0.9')
        ax.spines[['top', 'right']].set_visible(False)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel('iteration')
    return figure
