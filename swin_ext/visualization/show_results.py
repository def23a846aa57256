"""A sheet of predicted masks over the ground truth, from COCO files."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from swin_ext.coco.masks import overlap
from swin_ext.images.image_file import ImageReadError
from swin_ext.images.preprocessing import Preprocessing
from swin_ext.images.reading import open_image
from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing
from swin_ext.visualization.overlays import Tile, draw_sheet

PREDICTION_KEYS = ('image_id', 'category_id', 'score', 'segmentation')


class ResultsError(UserError, ValueError):
    """A file that cannot be shown, or files that do not belong together."""


def load_ground_truth(ann_file: Path) -> COCO:
    """Read a COCO annotation file; ResultsError if it is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            coco = COCO(str(ann_file))
    except json.JSONDecodeError as error:
        raise ResultsError(f'{ann_file} is not a JSON file: {error}') from error
    if not coco.imgs or not coco.cats:
        raise ResultsError(
            f'{ann_file} has no images or no categories: give a COCO annotation file with --ann'
        )
    return coco


def load_predictions(pred_file: Path, coco: COCO) -> dict[int, list[dict]]:
    """Read COCO segmentation results.

    Returns:
        Predictions of each image id of ``coco``, empty lists included.

    Raises:
        ResultsError: the file is no list of segmentation results, or an entry does not fit.
    """
    try:
        predictions = json.loads(pred_file.read_text())
    except json.JSONDecodeError as error:
        raise ResultsError(f'{pred_file} is not a JSON file: {error}') from error
    if not isinstance(predictions, list):
        raise ResultsError(
            f'{pred_file} holds a {type(predictions).__name__}, not a list of COCO '
            'results: give the .segm.json written by the evaluator'
        )
    by_image = {image_id: [] for image_id in coco.imgs}
    for index, prediction in enumerate(predictions):
        where = f'{pred_file}, entry {index}'
        missing = [key for key in PREDICTION_KEYS if key not in prediction]
        if missing:
            raise ResultsError(
                f'{where}: no {", ".join(missing)}; give the .segm.json written by '
                'the evaluator, not the .bbox.json'
            )
        image_id, category_id = prediction['image_id'], prediction['category_id']
        if image_id not in by_image:
            raise ResultsError(
                f'{where}: image_id {image_id} is not in the annotation file; were '
                'the predictions made on another split?'
            )
        if category_id not in coco.cats:
            raise ResultsError(
                f'{where}: category_id {category_id} is not in the annotation file, '
                f'which has {sorted(coco.cats)}'
            )
        image = coco.imgs[image_id]
        if not isinstance(prediction['segmentation'], dict):
            raise ResultsError(f'{where}: the segmentation is no run-length encoding')
        height, width = prediction['segmentation']['size']
        if (height, width) != (image['height'], image['width']):
            raise ResultsError(
                f'{where}: the mask is {width}x{height} px but image_id {image_id} '
                f'is {image["width"]}x{image["height"]} px'
            )
        by_image[image_id].append(prediction)
    return by_image


def load_image(coco: COCO, image_id: int, img_prefix: Path) -> np.ndarray:
    """Grey image of shape (height, width), uint8, of any format; an error if missing or damaged.

    What is no picture of 8 bits is shown between its own percentiles, as `Preprocessing` has them.
    """
    info = coco.imgs[image_id]
    path = img_prefix / info['file_name']
    if not path.is_file():
        raise FileNotFoundError(f'{path} (image_id {image_id}) does not exist: check --img-prefix')
    try:
        file = open_image(path)
        place = info.get('slice_index'), info.get('frame_index')
        if file.is_display:
            image = cv2.cvtColor(file.display(*place), cv2.COLOR_BGR2GRAY)
        else:
            pixels = file.frame(*place)
            image = Preprocessing(window='slice').grey_levels(pixels, pixels)
    except ImageReadError as error:
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)  # BMP, TIFF and others
        if image is None:
            raise ResultsError(
                f'{path} (image_id {image_id}) cannot be read as an image: {error}'
            ) from error
    if image.shape != (info['height'], info['width']):
        raise ResultsError(
            f'{path} is {image.shape[1]}x{image.shape[0]} px, but the annotation file '
            f'says {info["width"]}x{info["height"]} px'
        )
    return image


def true_masks(coco: COCO, image_id: int) -> dict[int, np.ndarray]:
    """Boolean, non-empty mask per category; several instances of a category are joined."""
    masks = {}
    for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image_id], iscrowd=False)):
        mask = coco.annToMask(annotation).astype(bool)
        category_id = annotation['category_id']
        masks[category_id] = masks[category_id] | mask if category_id in masks else mask
    return {category_id: mask for category_id, mask in masks.items() if mask.any()}


def best_predictions(
    predictions: list[dict], score_thr: float
) -> dict[int, tuple[np.ndarray, float]]:
    """Boolean mask and score of the highest-scoring prediction per category, from the threshold up.

    A CMR slice shows each structure at most once, so lower-scoring ones are alternatives.
    """
    best = {}
    for prediction in predictions:
        category_id, score = prediction['category_id'], prediction['score']
        if score >= score_thr and (category_id not in best or score > best[category_id]['score']):
            best[category_id] = prediction
    return {
        category_id: (
            mask_utils.decode(prediction['segmentation']).astype(bool),
            prediction['score'],
        )
        for category_id, prediction in best.items()
    }


def choose_images(coco: COCO, num: int, seed: int | None) -> list[int]:
    """Ids of ``num`` images, evenly spaced over the file, or drawn at random given a seed."""
    image_ids = sorted(coco.imgs)
    num = min(num, len(image_ids))
    if seed is None:
        chosen = np.linspace(0, len(image_ids) - 1, num).round().astype(int)
    else:
        chosen = np.sort(np.random.default_rng(seed).choice(len(image_ids), num, replace=False))
    return [image_ids[index] for index in chosen]


def dice_by_category(
    truth: dict[int, np.ndarray], predictions: dict[int, tuple[np.ndarray, float]]
) -> dict[int, float]:
    """Dice of each category that an image has or is said to have."""
    dice = {}
    for category_id in truth.keys() | predictions.keys():
        known = truth.get(category_id)
        found, _ = predictions.get(category_id, (None, 0.0))
        both = known is not None and found is not None
        dice[category_id] = overlap(known, found)[1] if both else 0.0
    return dice


def worst_images(
    coco: COCO, by_image: dict[int, list[dict]], score_thr: float, num: int
) -> dict[int, float]:
    """Mean Dice of the images of the lowest ones, the worst first.

    Images without any structure, true or predicted, have no Dice and are passed over.
    """
    dice = {}
    for image_id in sorted(coco.imgs):
        best = best_predictions(by_image[image_id], score_thr)
        values = dice_by_category(true_masks(coco, image_id), best).values()
        if values:
            dice[image_id] = sum(values) / len(values)
    return {image_id: dice[image_id] for image_id in sorted(dice, key=dice.get)[:num]}


def make_tile(
    coco: COCO, image_id: int, img_prefix: Path, predictions: list[dict], score_thr: float
) -> Tile:
    return Tile(
        title=coco.imgs[image_id]['file_name'],
        image=load_image(coco, image_id, img_prefix),
        truth=true_masks(coco, image_id),
        predictions=best_predictions(predictions, score_thr),
    )


def show_results(
    ann: Path,
    img_prefix: Path,
    pred: Path,
    out: Path,
    num: int,
    score_thr: float,
    seed: int | None,
    worst: int | None = None,
) -> int:
    """Write the sheet of `tools/show_results.py`; its arguments are those of the command line.

    Returns:
        Number of images on the sheet.

    Raises:
        FileNotFoundError: If a file is missing.
        ResultsError: If a file is not what it should be, or two do not belong together.
    """
    coco = load_ground_truth(ann)
    by_image = load_predictions(pred, coco)
    if worst:
        dice = worst_images(coco, by_image, score_thr, worst)
        if not dice:
            raise ResultsError(
                f'{ann} and {pred} have no structure on any image, at scores from {score_thr:g}: '
                'there is no worst one'
            )
    else:
        dice = dict.fromkeys(choose_images(coco, num, seed))
    tiles = []
    for image_id, value in dice.items():
        tile = make_tile(coco, image_id, img_prefix, by_image[image_id], score_thr)
        if value is not None:
            tile = tile._replace(title=f'Dice {value:.2f}  {tile.title}')
        tiles.append(tile)
    names = {category_id: coco.cats[category_id]['name'] for category_id in sorted(coco.cats)}
    sheet = io.BytesIO()
    draw_sheet(tiles, names, score_thr).savefig(sheet, format='png')
    with replacing(out) as file:
        file.write(sheet.getvalue())
    return len(tiles)
