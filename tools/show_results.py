"""Draw predicted masks over the ground truth, many images on one sheet.

    mim test mmdet CONFIG --checkpoint CKPT \\
        --cfg-options test_evaluator.outfile_prefix=work_dirs/results
    python tools/show_results.py --ann data/cmr_phantom/val.json \\
        --img-prefix data/cmr_phantom/images --pred work_dirs/results.segm.json --out results.png
"""
from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
from pathlib import Path

import cv2
import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

# Colour-blind safe and far from grey: Okabe and Ito, https://jfly.uni-koeln.de/color/.
COLOURS = ('#D55E00', '#009E73', '#56B4E9', '#F0E442', '#CC79A7', '#0072B2', '#E69F00')
FILL_OPACITY = 0.3
TILE_INCHES = 2.56  # 256 px at the resolution below
DPI = 100
MAX_COLUMNS = 4
PREDICTION_KEYS = ('image_id', 'category_id', 'score', 'segmentation')


def load_ground_truth(ann_file: Path) -> COCO:
    """Read a COCO annotation file; ValueError if it is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            coco = COCO(str(ann_file))
    except json.JSONDecodeError as error:
        raise ValueError(f'{ann_file} is not a JSON file: {error}') from error
    if not coco.imgs or not coco.cats:
        raise ValueError(f'{ann_file} has no images or no categories: give a COCO annotation file '
                         'with --ann')
    return coco


def load_predictions(pred_file: Path, coco: COCO) -> dict[int, list[dict]]:
    """Read COCO segmentation results.

    Returns:
        Predictions of each image id of ``coco``, empty lists included.

    Raises:
        ValueError: the file is no list of segmentation results, or an entry does not fit ``coco``.
    """
    try:
        predictions = json.loads(pred_file.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f'{pred_file} is not a JSON file: {error}') from error
    if not isinstance(predictions, list):
        raise ValueError(f'{pred_file} holds a {type(predictions).__name__}, not a list of COCO '
                         'results: give the .segm.json written by the evaluator')
    by_image = {image_id: [] for image_id in coco.imgs}
    for index, prediction in enumerate(predictions):
        where = f'{pred_file}, entry {index}'
        missing = [key for key in PREDICTION_KEYS if key not in prediction]
        if missing:
            raise ValueError(f'{where}: no {", ".join(missing)}; give the .segm.json written by '
                             'the evaluator, not the .bbox.json')
        image_id, category_id = prediction['image_id'], prediction['category_id']
        if image_id not in by_image:
            raise ValueError(f'{where}: image_id {image_id} is not in the annotation file; were '
                             'the predictions made on another split?')
        if category_id not in coco.cats:
            raise ValueError(f'{where}: category_id {category_id} is not in the annotation file, '
                             f'which has {sorted(coco.cats)}')
        image = coco.imgs[image_id]
        if not isinstance(prediction['segmentation'], dict):
            raise ValueError(f'{where}: the segmentation is no run-length encoding')
        height, width = prediction['segmentation']['size']
        if (height, width) != (image['height'], image['width']):
            raise ValueError(f'{where}: the mask is {width}x{height} px but image_id {image_id} '
                             f'is {image["width"]}x{image["height"]} px')
        by_image[image_id].append(prediction)
    return by_image


def load_image(coco: COCO, image_id: int, img_prefix: Path) -> np.ndarray:
    """Grey image of shape (height, width), uint8; an error if missing or of another size."""
    info = coco.imgs[image_id]
    path = img_prefix / info['file_name']
    if not path.is_file():
        raise FileNotFoundError(f'{path} (image_id {image_id}) does not exist: check --img-prefix')
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise ValueError(f'{path} (image_id {image_id}) cannot be read as an image')
    if image.shape != (info['height'], info['width']):
        raise ValueError(f'{path} is {image.shape[1]}x{image.shape[0]} px, but the annotation file '
                         f'says {info["width"]}x{info["height"]} px')
    return image


def true_masks(coco: COCO, image_id: int) -> dict[int, np.ndarray]:
    """Boolean, non-empty mask per category; several instances of a category are joined."""
    masks = {}
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=False)):
        mask = coco.annToMask(annotation).astype(bool)
        category_id = annotation['category_id']
        masks[category_id] = masks[category_id] | mask if category_id in masks else mask
    return {category_id: mask for category_id, mask in masks.items() if mask.any()}


def best_predictions(predictions: list[dict],
                     score_thr: float) -> dict[int, tuple[np.ndarray, float]]:
    """Boolean mask and score of the highest-scoring prediction per category, from the threshold up.

    A CMR slice shows each structure at most once, so lower-scoring ones are alternatives.
    """
    best = {}
    for prediction in predictions:
        category_id, score = prediction['category_id'], prediction['score']
        if score >= score_thr and (category_id not in best or score > best[category_id]['score']):
            best[category_id] = prediction
    return {category_id: (mask_utils.decode(prediction['segmentation']).astype(bool),
                          prediction['score']) for category_id, prediction in best.items()}


def overlap(mask: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Intersection over union and Dice coefficient of two boolean masks, not both empty."""
    intersection = np.logical_and(mask, other).sum()
    size = mask.sum() + other.sum()
    return float(intersection / (size - intersection)), float(2 * intersection / size)


def blend(image: np.ndarray, masks: dict[int, np.ndarray],
          colours: dict[int, str]) -> np.ndarray:
    """RGB image, floats in [0, 1], with each category's mask tinted in its colour."""
    rgb = np.repeat(image[..., None] / 255., 3, axis=2)
    for category_id, mask in masks.items():
        colour = np.array(to_rgb(colours[category_id]))
        rgb[mask] = (1 - FILL_OPACITY) * rgb[mask] + FILL_OPACITY * colour
    return rgb


def draw_tile(ax: Axes, image: np.ndarray, truth: dict[int, np.ndarray],
              predictions: dict[int, tuple[np.ndarray, float]], colours: dict[int, str]) -> None:
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
    return ax.contour(columns, rows, np.pad(mask, 1).astype(float), levels=[0.5], colors=[colour],
                      **style)


def describe(category_id: int, truth: dict[int, np.ndarray],
             predictions: dict[int, tuple[np.ndarray, float]]) -> str | None:
    """Score, IoU and Dice of a category on one image, or None where it neither is nor is found."""
    if category_id in predictions:
        mask, score = predictions[category_id]
        if category_id not in truth:
            return f'score {score:.2f}  not in the ground truth'
        iou, dice = overlap(mask, truth[category_id])
        return f'score {score:.2f}  IoU {iou:.2f}  Dice {dice:.2f}'
    return 'missed' if category_id in truth else None


def choose_images(coco: COCO, num: int, seed: int | None) -> list[int]:
    """Ids of ``num`` images, evenly spaced over the file, or drawn at random given a seed."""
    image_ids = sorted(coco.imgs)
    num = min(num, len(image_ids))
    if seed is None:
        chosen = np.linspace(0, len(image_ids) - 1, num).round().astype(int)
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(len(image_ids), num, replace=False))
    return [image_ids[index] for index in chosen]


def draw_sheet(coco: COCO, by_image: dict[int, list[dict]], image_ids: list[int], img_prefix: Path,
               score_thr: float) -> Figure:
    """Contact sheet of the given images with a line of figures per category below each."""
    categories = sorted(coco.cats)
    if len(categories) > len(COLOURS):
        raise ValueError(f'the annotation file has {len(categories)} categories, but only '
                         f'{len(COLOURS)} can be told apart by colour')
    colours = dict(zip(categories, COLOURS))
    names = {category_id: coco.cats[category_id]['name'] for category_id in categories}

    columns = min(MAX_COLUMNS, len(image_ids))
    rows = math.ceil(len(image_ids) / columns)
    line = 0.16
    caption = 0.08 + line * len(categories)
    header, title, gap = 0.45, 0.26, 0.12
    # A narrow sheet is widened to hold the legend.
    width = max(columns * (TILE_INCHES + gap) + gap, 5.2)
    row_height = title + TILE_INCHES + caption + gap
    figure_height = header + rows * row_height
    figure = plt.figure(figsize=(width, figure_height), dpi=DPI, facecolor='white')
    for index, image_id in enumerate(image_ids):
        row, column = divmod(index, columns)
        left = gap + column * (TILE_INCHES + gap)
        bottom = figure_height - header - row * row_height - title - TILE_INCHES
        ax = figure.add_axes([left / width, bottom / figure_height,
                              TILE_INCHES / width, TILE_INCHES / figure_height])
        truth = true_masks(coco, image_id)
        predictions = best_predictions(by_image[image_id], score_thr)
        draw_tile(ax, load_image(coco, image_id, img_prefix), truth, predictions, colours)
        figure.text(left / width, (bottom + TILE_INCHES + 0.05) / figure_height,
                    _shorten(coco.imgs[image_id]['file_name']), fontsize=8, va='bottom')
        for number, category_id in enumerate(categories):
            text = describe(category_id, truth, predictions)
            y = (bottom - 0.05 - line * number) / figure_height
            figure.text(left / width, y, '\u25a0', color=colours[category_id], fontsize=8, va='top')
            figure.text((left + 0.13) / width, y, f'{names[category_id]}  {text or "absent"}',
                        color='black' if text else '0.6', fontsize=7.5, va='top')

    handles = [Patch(facecolor=(*to_rgb(colours[category_id]), FILL_OPACITY),
                     edgecolor=colours[category_id], label=names[category_id])
               for category_id in categories]
    handles.append(Line2D([], [], color='white', linestyle='dashed', linewidth=1,
                          path_effects=[patheffects.withStroke(linewidth=3, foreground='black')],
                          label='ground truth'))
    figure.legend(handles=handles, loc='upper left', ncols=len(handles), frameon=False, fontsize=9,
                  bbox_to_anchor=(gap / width, 1), borderaxespad=0.3, borderpad=0.2,
                  title=f'best prediction per class, score from {score_thr:g}', title_fontsize=8,
                  alignment='left')
    return figure


def _shorten(text: str, length: int = 42) -> str:
    return text if len(text) <= length else '\u2026' + text[1 - length:]


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--ann', type=Path, required=True, help='COCO annotation file')
    parser.add_argument('--img-prefix', type=Path, required=True, help='folder of the images')
    parser.add_argument('--pred', type=Path, required=True,
                        help='COCO segmentation results, PREFIX.segm.json of the evaluator')
    parser.add_argument('--out', type=Path, required=True, help='PNG to write')
    parser.add_argument('--num', type=int, default=12, help='number of images')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score drawn')
    parser.add_argument('--seed', type=int,
                        help='draw the images at random; without it they are evenly spaced')
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    if args.num < 1:
        parser.error(f'--num is {args.num}: at least one image is needed')
    try:
        coco = load_ground_truth(args.ann)
        by_image = load_predictions(args.pred, coco)
        image_ids = choose_images(coco, args.num, args.seed)
        figure = draw_sheet(coco, by_image, image_ids, args.img_prefix, args.score_thr)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, format='png')
    plt.close(figure)
    print(f'wrote {len(image_ids)} images to {args.out}')


if __name__ == '__main__':
    main()
