"""Histograms of a data set and contact sheets of its images."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pycocotools import mask as mask_utils

from swin_ext.coco.masks import to_rle
from swin_ext.preflight.splits import Split, class_counts, instance_sizes, load_image
from swin_ext.visualization.colours import OKABE_ITO, colours_of
from swin_ext.visualization.overlays import DPI, TILE_INCHES, draw_tile

COLUMNS = 6
MAX_BARS = 60  # more classes are counted together
LEGEND_COLUMNS = 8
LINE_INCHES = 0.2  # of text


def draw_histograms(splits: list[Split]) -> Figure:
    """Instances of each class and split, the most frequent first, and how large they are.

    Up to as many classes as can be told apart by colour have a line of their own among the sizes.
    """
    counts = [class_counts(split) for split in splits]
    total = sum(counts, start=type(counts[0])())
    names = sorted(
        {name for split in splits for name in split.classes}, key=lambda n: (-total[n], n)
    )
    num_bars = min(len(names), MAX_BARS + 1)
    height = max(3.6, 1.2 + num_bars * LINE_INCHES * max(1, 0.6 * len(splits)))
    figure = Figure(figsize=(4.2 + 4.2 * len(splits), height), dpi=DPI, layout='constrained')
    class_axes, *size_axes = np.atleast_1d(figure.subplots(1, 1 + len(splits)))
    _draw_bars(class_axes, splits, counts, names)
    found = [name for name in names if total[name]]
    shown = found if len(found) <= len(OKABE_ITO) else found[: len(OKABE_ITO) - 1]
    for ax, split in zip(size_axes, splits):
        _draw_sizes(ax, split, shown)
    return figure


def _draw_bars(ax: Axes, splits: list[Split], counts: list[dict], names: list[str]) -> None:
    rest = names[MAX_BARS:]
    labels = names[:MAX_BARS] + ([f'{len(rest)} other classes'] if rest else [])
    width = 0.8 / len(splits)
    for number, (split, count) in enumerate(zip(splits, counts)):
        values = [count[name] for name in names[:MAX_BARS]]
        values += [sum(count[name] for name in rest)] if rest else []
        bars = ax.barh(
            np.arange(len(labels)) + number * width,
            values,
            width,
            label=split.name,
            color=str(0.25 + 0.5 * number / len(splits)),
        )
        ax.bar_label(bars, fontsize=7, padding=2)
    ax.set_yticks(np.arange(len(labels)) + 0.4 - width / 2, labels, fontsize=8)
    ax.set_ylim(len(labels) - 0.4, -0.6)  # from top to bottom
    ax.set(title='instances per class')
    ax.margins(x=0.15)  # room for the numbers
    ax.legend(frameon=False, loc='lower right', fontsize=8)


def _draw_sizes(ax: Axes, split: Split, shown: list[str]) -> None:
    sizes, in_cm2 = instance_sizes(split)
    edges = np.linspace(0, max((v for part in sizes.values() for v in part), default=1), 30)
    colours = colours_of(shown)
    for name in shown:
        if name in sizes:
            style = dict(linewidth=1.6, color=colours[name], label=name)
            ax.hist(sizes[name], edges, histtype='step', **style)
    rest = [name for name in sizes if sizes[name] and name not in shown]
    if rest:
        values = [value for name in rest for value in sizes[name]]
        style = dict(linewidth=1.6, color='0.5', linestyle='dotted')
        ax.hist(values, edges, histtype='step', label=f'{len(rest)} other classes', **style)
    ax.set(
        title=f'sizes, {split.name}',
        xlabel='area of an instance in ' + ('cm$^2$' if in_cm2 else 'pixels'),
        ylabel='instances',
    )
    ax.legend(frameon=False)


def draw_contact_sheet(split: Split, num: int) -> Figure:
    """Images evenly spaced over a split with their masks."""
    indices = np.unique(np.linspace(0, len(split.dataset) - 1, num).round().astype(int))
    infos = [split.dataset.get_data_info(int(index)) for index in indices]
    by_name = colours_of(split.classes)
    colours = {label: by_name[name] for label, name in enumerate(split.classes)}
    drawn = sorted({instance['bbox_label'] for info in infos for instance in info['instances']})
    columns = min(COLUMNS, len(indices))
    rows = math.ceil(len(indices) / columns)
    legend_columns = min(LEGEND_COLUMNS, max(1, columns))
    header = 0.4 + LINE_INCHES * math.ceil(len(drawn) / legend_columns)
    figure = Figure(
        figsize=(columns * TILE_INCHES, rows * (TILE_INCHES + 0.2) + header),
        dpi=DPI,
        facecolor='white',
        layout='constrained',
    )
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, index, info in zip(axes, indices, infos):
        masks = {}
        for instance in info['instances']:
            if 'mask' in instance:
                rle = to_rle(instance['mask'], info['height'], info['width'])
                mask = mask_utils.decode(rle).astype(bool)
                label = instance['bbox_label']
                masks[label] = (masks[label][0] | mask if label in masks else mask, 1.0)
        try:
            image = load_image(split.dataset, int(index))
        except Exception:  # check_images has said why
            image = np.zeros((info['height'], info['width']), np.uint8)
        draw_tile(ax, image, {}, masks, colours)
        ax.set_title(f'{info["img_id"]}: {Path(info["img_path"]).name}'[-40:], fontsize=7)
    figure.legend(
        handles=[Patch(color=colours[label], label=split.classes[label]) for label in drawn],
        loc='outside upper left',
        ncols=legend_columns,
        frameon=False,
        title=f'{split.name}: {len(indices)} of {len(split.dataset)} images',
    )
    return figure
