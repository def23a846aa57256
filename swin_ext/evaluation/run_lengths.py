"""Run-length codes of predicted masks, made on the device where the masks are."""

from __future__ import annotations

import numpy as np
import pycocotools.mask
import torch


def encode_masks(masks: torch.Tensor) -> list[dict]:
    """Run-length codes of the boolean masks of one image, all at once and on their device.

    A code lists where pixels differ from the one before, going down the columns. Comparing whole
    rows finds these places without transposing the masks, so that only they leave the GPU.

    Args:
        masks: Shape (N, H, W).

    Returns:
        One COCO RLE per mask, its counts compressed, as `pycocotools.mask.encode` has it.
    """
    masks = masks.detach().bool()
    num, height, width = masks.shape
    if not masks.numel():
        return [
            pycocotools.mask.encode(np.zeros((height, width), np.uint8, order='F'))
            for _ in range(num)
        ]
    size = height * width
    index, pixel = np.divmod(find_changes(masks), size)
    row, column = np.divmod(pixel, width)
    starts = np.concatenate([index * size + column * height + row, np.arange(num + 1) * size])
    starts.sort()
    counts = np.diff(starts).tolist()
    ends = (np.bincount(index, minlength=num) + 1).cumsum().tolist()
    rles = [
        dict(size=[height, width], counts=counts[begin:end]) for begin, end in zip([0, *ends], ends)
    ]
    return pycocotools.mask.frPyObjects(rles, height, width)


def find_changes(masks: torch.Tensor) -> np.ndarray:
    """Flat indices into masks (N, H, W) of the pixels that differ from the one above them.

    The pixel above the top of a column is the foot of the column before, and False for the first.
    """
    changes = torch.empty_like(masks)
    torch.ne(masks[:, 1:], masks[:, :-1], out=changes[:, 1:])
    torch.ne(masks[:, 0, 1:], masks[:, -1, :-1], out=changes[:, 0, 1:])
    changes[:, 0, 0] = masks[:, 0, 0]
    if changes.is_cuda:
        return changes.flatten().nonzero()[:, 0].cpu().numpy()
    return np.flatnonzero(changes.numpy())
