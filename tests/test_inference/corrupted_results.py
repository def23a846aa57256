"""Ground truth with the errors of a model, as COCO results: for checks where no model is at hand.

PYTHONPATH=. python tests/test_inference/corrupted_results.py ANN_FILE RESULTS_FILE
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_utils
from scipy import ndimage

from swin_ext.coco.masks import to_rle

# Share of the structures that each error befalls; outlines are moved in all of them.
LOST, SHIFTED, SPECKLED, OPENED = 0.03, 0.03, 0.05, 0.1


def corrupted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The mask with a wavy outline and perhaps a worse error; None if it is lost."""
    if rng.random() < LOST:
        return None
    sigma = rng.exponential(0.8)  # of the outline in pixels, after smoothing
    waves = ndimage.gaussian_filter(rng.normal(size=mask.shape), 4)
    distance = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    mask = distance + rng.normal(0, sigma / 2) + sigma * waves / waves.std() > 0
    if rng.random() < SHIFTED:
        mask = np.roll(mask, rng.integers(-12, 13, 2), (0, 1))
    if rng.random() < SPECKLED:
        y, x = (rng.integers(0, size - 6) for size in mask.shape)
        mask[y : y + rng.integers(2, 6), x : x + rng.integers(2, 6)] = True
    if rng.random() < OPENED and mask.any():
        rows = np.flatnonzero(mask.any(1))
        mask[rows[0] : rows[0] + rng.integers(1, max(2, len(rows) // 3))] = False
    return mask if mask.any() else None


def corrupt(ann_file: Path, results_file: Path, seed: int = 0) -> None:
    content = json.loads(ann_file.read_text())
    images = {image['id']: image for image in content['images']}
    rng = np.random.default_rng(seed)
    results = []
    for annotation in content['annotations']:
        image = images[annotation['image_id']]
        rle = to_rle(annotation['segmentation'], image['height'], image['width'])
        truth = mask_utils.decode(rle).astype(bool)
        mask = corrupted(truth, rng)
        if mask is None:
            continue
        dice = 2 * (mask & truth).sum() / (mask.sum() + truth.sum())
        found = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        results.append(
            dict(
                image_id=image['id'],
                category_id=annotation['category_id'],
                bbox=mask_utils.toBbox(found).tolist(),
                score=float(np.clip(0.6 + 0.4 * dice + rng.normal(0, 0.1), 0.05, 1)),
                segmentation=dict(size=list(found['size']), counts=found['counts'].decode()),
            )
        )
    results_file.write_text(json.dumps(results))


if __name__ == '__main__':
    corrupt(*map(Path, sys.argv[1:3]))
