"""A tiny cardiac MR data set, written to disk."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask


def encode(mask: np.ndarray) -> dict:
    """Compressed RLE of a boolean (H, W) mask, counts as a string."""
    rle = pycocotools.mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=list(rle['size']), counts=rle['counts'].decode())


def disk(height, width, y, x, radius) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


class ToyCMR:
    """Short-axis slices of 48 x 64 px: LV disk, Myo ring around it, RV disk beside them."""

    classes = ('LV', 'Myo', 'RV')

    def __init__(self, root: Path, num_images: int = 4, classes: tuple = classes):
        self.root = root
        self.json_path = root / 'train.json'
        (root / 'images').mkdir(parents=True)
        ids = {name: 10 * (i + 1) for i, name in enumerate(classes)}
        self.content = dict(
            images=[], annotations=[], categories=[dict(id=i, name=name) for name, i in ids.items()]
        )
        rng = np.random.RandomState(0)
        for image_id in range(1, num_images + 1):
            lv = disk(48, 64, 24, 36, 7)
            masks = dict(LV=lv, Myo=disk(48, 64, 24, 36, 12) & ~lv, RV=disk(48, 64, 24, 14, 8))
            pixels = rng.randint(0, 40, (48, 64)) + 180 * masks['LV'] + 90 * masks['RV']
            name = f'slice_{image_id}.png'
            cv2.imwrite(str(root / 'images' / name), pixels.astype(np.uint8))
            self.content['images'].append(dict(id=image_id, file_name=name, height=48, width=64))
            for class_name in set(masks) & set(classes):
                mask = masks[class_name]
                (y0, y1), (x0, x1) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
                self.content['annotations'].append(
                    dict(
                        id=len(self.content['annotations']) + 1,
                        image_id=image_id,
                        category_id=ids[class_name],
                        iscrowd=0,
                        area=int(mask.sum()),
                        bbox=[int(x0), int(y0), int(x1 - x0 + 1), int(y1 - y0 + 1)],
                        segmentation=encode(mask),
                    )
                )
        self.save()

    def save(self) -> None:
        for name in ('train.json', 'val.json'):
            (self.root / name).write_text(json.dumps(self.content))
