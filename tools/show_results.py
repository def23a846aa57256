"""Draw predicted masks over the ground truth, many images on one sheet.

    mim test mmdet CONFIG --checkpoint CKPT \\
        --cfg-options test_evaluator.0.outfile_prefix=work_dirs/results
    python tools/show_results.py --ann data/cmr_phantom/val.json \\
        --img-prefix data/cmr_phantom/images --pred work_dirs/results.segm.json --out results.png
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from swin_ext.visualization.overlays import Tile, draw_sheet

PREDICTION_KEYS = ('image_id', 'category_id', 'score', 'segmentation')


def load_ground_truth(ann_file: Path) -> COCO:
    """Read a COCO annotation file; ValueError if it is none."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            coco = COCO(str(ann_file))
    except json.JSONDecodeError as error:
        raise ValueError(f'{ann_file} is not a JSON file: {error}') from error
    if not coco.imgs or not coco.cats:
        raise ValueError(
            f'{ann_file} has no images or no categories: give a COCO annotation file with --ann'
        )
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
        raise ValueError(
            f'{pred_file} holds a {type(predictions).__name__}, not a list of COCO '
            'results: give the .segm.json written by the evaluator'
        )
    by_image = {image_id: [] for image_id in coco.imgs}
    for index, prediction in enumerate(predictions):
        where = f'{pred_file}, entry {index}'
        missing = [key for key in PREDICTION_KEYS if key not in prediction]
        if missing:
            raise ValueError(
                f'{where}: no {", ".join(missing)}; give the .segm.json written by '
                'the evaluator, not the .bbox.json'
            )
        image_id, category_id = prediction['image_id'], prediction['category_id']
        if image_id not in by_image:
            raise ValueError(
                f'{where}: image_id {image_id} is not in the annotation file; were '
                'the predictions made on another split?'
            )
        if category_id not in coco.cats:
            raise ValueError(
                f'{where}: category_id {category_id} is not in the annotation file, '
                f'which has {sorted(coco.cats)}'
            )
        image = coco.imgs[image_id]
        if not isinstance(prediction['segmentation'], dict):
            raise ValueError(f'{where}: the segmentation is no run-length encoding')
        height, width = prediction['segmentation']['size']
        if (height, width) != (image['height'], image['width']):
            raise ValueError(
                f'{where}: the mask is {width}x{height} px but image_id {image_id} '
                f'is {image["width"]}x{image["height"]} px'
            )
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
        raise ValueError(
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


def make_tile(
    coco: COCO, image_id: int, img_prefix: Path, predictions: list[dict], score_thr: float
) -> Tile:
    return Tile(
        title=coco.imgs[image_id]['file_name'],
        image=load_image(coco, image_id, img_prefix),
        truth=true_masks(coco, image_id),
        predictions=best_predictions(predictions, score_thr),
    )


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument('--ann', type=Path, required=True, help='COCO annotation file')
    parser.add_argument('--img-prefix', type=Path, required=True, help='folder of the images')
    parser.add_argument(
        '--pred',
        type=Path,
        required=True,
        help='COCO segmentation results, PREFIX.segm.json of the evaluator',
    )
    parser.add_argument('--out', type=Path, required=True, help='PNG to write')
    parser.add_argument('--num', type=int, default=12, help='number of images')
    parser.add_argument('--score-thr', type=float, default=0.5, help='lowest score drawn')
    parser.add_argument(
        '--seed', type=int, help='draw the images at random; without it they are evenly spaced'
    )
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    if args.num < 1:
        parser.error(f'--num is {args.num}: at least one image is needed')
    try:
        coco = load_ground_truth(args.ann)
        by_image = load_predictions(args.pred, coco)
        image_ids = choose_images(coco, args.num, args.seed)
        tiles = [
            make_tile(coco, image_id, args.img_prefix, by_image[image_id], args.score_thr)
            for image_id in image_ids
        ]
        names = {category_id: coco.cats[category_id]['name'] for category_id in sorted(coco.cats)}
        figure = draw_sheet(tiles, names, args.score_thr)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, format='png')
    print(f'wrote {len(tiles)} images to {args.out}')


if __name__ == '__main__':
    main()
