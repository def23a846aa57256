"""Predicted masks over the ground truth, many images on one sheet."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from swin_ext.coco.masks import overlap
from swin_ext.visualization.colours import colours_of

FILL_OPACITY = 0.3
TILE_INCHES = 2.56  # 256 px at the resolution below
DPI = 100
MAX_COLUMNS = 4
MAX_LINES = 7  # below an image; more classes than that are named where they are alone


class Tile(NamedTuple):
    """One image of a sheet; masks are boolean, (height, width), by category id.

    Attributes:
        title: Written above the image.
        image: Grey image of shape (height, width), uint8.
        truth: Non-empty mask per category, several instances joined.
        predictions: Mask and score of the best prediction per category.
    """

    title: str
    image: np.ndarray
    truth: dict[int, np.ndarray]
    predictions: dict[int, tuple[np.ndarray, float]]


def blend(image: np.ndarray, masks: dict[int, np.ndarray], colours: dict[int, str]) -> np.ndarray:
    """RGB image, floats in [0, 1], with each category's mask tinted in its colour."""
    rgb = np.repeat(image[..., None] / 255.0, 3, axis=2)
    for category_id, mask in masks.items():
        colour = np.array(to_rgb(colours[category_id]))
        rgb[mask] = (1 - FILL_OPACITY) * rgb[mask] + FILL_OPACITY * colour
    return rgb


def draw_tile(
    ax: Axes,
    image: np.ndarray,
    truth: dict[int, np.ndarray],
    predictions: dict[int, tuple[np.ndarray, float]],
    colours: dict[int, str],
) -> None:
    """Draw one image with its predicted masks (filled) and its ground truth (dashed, white)."""
    masks = {category_id: mask for category_id, (mask, _) in predictions.items()}
    ax.imshow(blend(image, masks, colours), interpolation='nearest')
    for category_id, mask in masks.items():
        if mask.any():
            _draw_outline(ax, mask, colours[category_id], linewidths=1.4)
    for mask in truth.values():
        # A dark rim keeps the white dashes visible on bright blood.
        outline = _draw_outline(ax, mask, 'white', linewidths=0.8, linestyles='dashed')
        outline.set_path_effects([patheffects.withStroke(linewidth=1.8, foreground='#00000090')])
    ax.set_xlim(-0.5, image.shape[1] - 0.5)
    ax.set_ylim(image.shape[0] - 0.5, -0.5)
    ax.set_axis_off()


def _draw_outline(ax: Axes, mask: np.ndarray, colour: str, **style) -> ContourSet:
    # Padded, so that a mask touching the border has a closed outline.
    columns, rows = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
    return ax.contour(
        columns, rows, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour], **style
    )


def describe(
    category_id: int, truth: dict[int, np.ndarray], predictions: dict[int, tuple[np.ndarray, float]]
) -> str | None:
    """Score, IoU and Dice of a category on one image, or None where it neither is nor is found."""
    if category_id in predictions:
        mask, score = predictions[category_id]
        if category_id not in truth:
            return f'score {score:.2f}  not in the ground truth'
        iou, dice = overlap(mask, truth[category_id])
        return f'score {score:.2f}  IoU {iou:.2f}  Dice {dice:.2f}'
    return 'missed' if category_id in truth else None


def draw_sheet(tiles: list[Tile], names: dict[int, str], score_thr: float) -> Figure:
    """Contact sheet with a line of figures per category below each image.

    Of more than `MAX_LINES` categories, those that an image has are listed below it, the largest
    first; the legend names those that any image has.

    Args:
        tiles: At least one image.
        names: Name of each category id, in the order of the lines.
        score_thr: Lowest score drawn, for the legend.
    """
    by_name = colours_of(names.values())
    colours = {category_id: by_name[name] for category_id, name in names.items()}
    shown = [tile.truth.keys() | tile.predictions.keys() for tile in tiles]
    categories = list(names)
    if len(categories) > MAX_LINES:
        categories = [id_ for id_ in categories if any(id_ in present for present in shown)]
    listed = [_listed(tile, list(names)) for tile in tiles]

    columns = min(MAX_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    line = 0.16
    caption = 0.08 + line * max(map(len, listed))
    title, gap = 0.26, 0.12
    # A narrow sheet is widened to hold the legend.
    width = max(columns * (TILE_INCHES + gap) + gap, 5.2)
    longest = max([len('ground truth'), *(len(names[id_]) for id_ in categories)])
    per_row = max(1, min(len(categories) + 1, int(width / (0.65 + 0.085 * longest))))
    header = 0.25 + 0.2 * math.ceil((len(categories) + 1) / per_row)
    row_height = title + TILE_INCHES + caption + gap
    figure_height = header + rows * row_height
    figure = Figure(figsize=(width, figure_height), dpi=DPI, facecolor='white')
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left = gap + column * (TILE_INCHES + gap)
        bottom = figure_height - header - row * row_height - title - TILE_INCHES
        ax = figure.add_axes(
            [left / width, bottom / figure_height, TILE_INCHES / width, TILE_INCHES / figure_height]
        )
        draw_tile(ax, tile.image, tile.truth, tile.predictions, colours)
        figure.text(
            left / width,
            (bottom + TILE_INCHES + 0.05) / figure_height,
            _shorten(tile.title),
            fontsize=8,
            va='bottom',
        )
        for number, category_id in enumerate(listed[index]):
            text = describe(category_id, tile.truth, tile.predictions)
            y = (bottom - 0.05 - line * number) / figure_height
            figure.text(left / width, y, '\u25a0', color=colours[category_id], fontsize=8, va='top')
            figure.text(
                (left + 0.13) / width,
                y,
                f'{names[category_id]}  {text or "absent"}',
                color='black' if text else '0.6',
                fontsize=7.5,
                va='top',
            )

    handles = [
        Patch(
            facecolor=(*to_rgb(colours[category_id]), FILL_OPACITY),
            edgecolor=colours[category_id],
            label=names[category_id],
        )
        for category_id in categories
    ]
    handles.append(
        Line2D(
            [],
            [],
            color='white',
            linestyle='dashed',
            linewidth=1,
            path_effects=[patheffects.withStroke(linewidth=3, foreground='black')],
            label='ground truth',
        )
    )
    figure.legend(
        handles=handles,
        loc='upper left',
        ncols=per_row,
        frameon=False,
        fontsize=9,
        bbox_to_anchor=(gap / width, 1),
        borderaxespad=0.3,
        borderpad=0.2,
        title=f'best prediction per class, score from {score_thr:g}',
        title_fontsize=8,
        alignment='left',
    )
    return figure


def _listed(tile: Tile, categories: list[int]) -> list[int]:
    """Categories that the lines below an image are about."""
    if len(categories) <= MAX_LINES:
        return categories
    areas = {id_: np.count_nonzero(mask) for id_, (mask, _) in tile.predictions.items()}
    areas.update((id_, np.count_nonzero(mask)) for id_, mask in tile.truth.items())
    return sorted(areas, key=lambda id_: -areas[id_])[:MAX_LINES]


def _shorten(text: str, length: int = 42) -> str:
    return text if len(text) <= length else '\u2026' + text[1 - length :]
