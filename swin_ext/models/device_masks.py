"""Masks of the annotations on the device, and targets of a mask head cut out of them there."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from mmcv.ops import roi_align
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmdet.structures.mask import BitmapMasks
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.utils import _pair

_uploaded: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


@MODELS.register_module()
class DeviceTargetMaskHead(FCNMaskHead):
    """`FCNMaskHead`, whose targets are made where the model is; parameters and results are its.

    Upstream brings boxes to the host, which waits for them, copies a mask of the image's size for
    each positive sample, and brings the targets to the host and back. Here the masks go to the
    device once, eight pixels in a byte, through pinned memory, and RoIAlign reads each in its
    place. The same operation on the same numbers: targets are equal to the last bit.

    Polygons, which upstream cuts as such on the host, are left to it.
    """

    def get_targets(
        self,
        sampling_results: list[SamplingResult],
        batch_gt_instances: list,
        rcnn_train_cfg: ConfigDict,
    ) -> Tensor:
        """Targets (positive samples of all images, h, w), 0 or 1 unless `soft_mask_target`."""
        if not all(isinstance(each.masks, BitmapMasks) for each in batch_gt_instances):
            return super().get_targets(sampling_results, batch_gt_instances, rcnn_train_cfg)
        size = _pair(rcnn_train_cfg.mask_size)
        targets = torch.cat(
            [
                cut_out(
                    on_device(instances.masks, result.pos_priors.device),
                    result.pos_priors,
                    result.pos_assigned_gt_inds,
                    size,
                )
                for result, instances in zip(sampling_results, batch_gt_instances)
            ]
        )
        return (
            targets if rcnn_train_cfg.get('soft_mask_target', False) else (targets >= 0.5).float()
        )


def cut_out(masks: Tensor, boxes: Tensor, indices: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean coverage, as `BitmapMasks.crop_and_resize` has it, of the parts of boxes.

    Args:
        masks: (N, H, W).
        boxes: (M, 4), x and y of two corners in px; what is outside of the image is cut off.
        indices: (M,), the mask of each.
        size: (h, w) of the result.

    Returns:
        (M, h, w), of the boxes' type.
    """
    if not len(boxes):
        return boxes.new_zeros((0, *size))
    H, W = masks.shape[1:]
    x, y = boxes[:, 0::2].clamp(0, W), boxes[:, 1::2].clamp(0, H)
    corners = torch.stack([x, y], dim=2).flatten(1)
    rois = torch.cat([indices[:, None].to(boxes), corners], dim=1)
    return roi_align(masks[:, None].to(boxes), rois, size, 1.0, 0, 'avg', True)[:, 0]


def on_device(masks: BitmapMasks, device: torch.device) -> Tensor:
    """The masks (N, H, W) on a device, where they are kept as long as `masks` is.

    The host does not wait for the copy.
    """
    kept = _uploaded.get(masks)
    if kept is None or kept.device != device:
        kept = _upload(masks.masks, device) if device.type == 'cuda' else _view(masks.masks, device)
        _uploaded[masks] = kept
    return kept


def _view(masks: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(masks)).to(device)


def _upload(masks: np.ndarray, device: torch.device) -> Tensor:
    if masks.size and masks.max() > 1:  # no bits, and not to be made such
        return _pinned(masks).to(device, non_blocking=True)
    return unpack(_pinned(np.packbits(masks, axis=2)).to(device, non_blocking=True), masks.shape[2])


def _pinned(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).pin_memory()


def unpack(packed: Tensor, width: int) -> Tensor:
    """Masks (N, H, width) of 0 and 1, of `np.packbits` along their rows (N, H, bytes)."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=packed.device)
    return (packed[..., None] >> shifts & 1).flatten(2)[..., :width]
