"""Ground truth of samples as COCO content, for data sets without an annotation file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def to_json_rle(rle: dict) -> dict:
    """A run-length code with text in place of the bytes of its counts, which JSON lacks."""
    counts = rle['counts']
    return dict(rle, counts=counts.decode() if isinstance(counts, bytes) else counts)


def xyxy_to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Corners to corner and size, shape (N, 4), in double precision as mmdet's `xyxy2xywh`."""
    boxes = boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def samples_to_coco(gts: list[dict], classes: Sequence[str]) -> dict:
    """COCO content from the instances of data samples, as mmdet's `gt_to_coco_json` has it."""
    images, annotations = [], []
    for gt in gts:
        images.append(dict(id=gt['img_id'], height=gt['height'], width=gt['width']))
        for instance in gt['anns']:
            x, y, w, h = xyxy_to_xywh(np.array([instance['bbox']]))[0].tolist()
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=gt['img_id'],
                    bbox=[x, y, w, h],
                    area=w * h,
                    category_id=int(instance['bbox_label']),
                    iscrowd=instance.get('ignore_flag', 0),
                    segmentation=instance.get('mask'),
                )
            )
    categories = [dict(id=label, name=name) for label, name in enumerate(classes)]
    return dict(images=images, annotations=annotations, categories=categories)
