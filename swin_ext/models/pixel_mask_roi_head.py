"""A RoI head whose masks are cut out of one map of class logits of the whole image.

Mask R-CNN draws each mask anew, from a few features inside of its box; of a small data set, only a
few boxes per image teach it to. Where a class has one object in an image, as in cardiac MR, a map
of class logits says the same, and each pixel of each image teaches it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import SamplingResult
from mmengine.registry import MODELS
from torch import Tensor

from swin_ext.models.device_masks import on_device
from swin_ext.utils.errors import UserError


class PixelMaskError(UserError, ValueError):
    """Arguments of a `PixelMaskRoIHead` that are impossible."""


@MODELS.register_module()
class PixelMaskRoIHead(StandardRoIHead):
    """`StandardRoIHead` with `mask_head` applied to the whole finest map of the neck, once.

    Masks are cut out of the result by RoIAlign, as `roi_layer` of `mask_roi_extractor` says; its
    `output_size` is that of the masks, `train_cfg.rcnn.mask_size`. Neighbours of one class are told
    apart by their boxes alone.

    The loss of the boxes' masks is joined by one of all pixels: binary cross-entropy and a soft
    Dice (https://arxiv.org/abs/1606.04797) of each class, with the union of its annotations.

    Args:
        pixel_loss_weight: Of the loss of all pixels.
        **kwargs: As of `StandardRoIHead`.

    Raises:
        PixelMaskError: If `mask_head` does not tell classes apart.
    """

    def __init__(self, *args, pixel_loss_weight: float = 2.0, **kwargs):
        super().__init__(*args, **kwargs)
        if self.mask_head.class_agnostic:
            raise PixelMaskError(
                'PixelMaskRoIHead needs a logit for each class: set mask_head.class_agnostic=False.'
            )
        self.pixel_loss_weight = pixel_loss_weight

    @property
    def upsampling(self) -> int:
        """How many times as large as the finest map the map of logits is."""
        return self.mask_head.scale_factor if self.mask_head.upsample is not None else 1

    def pixel_logits(self, x: tuple[Tensor, ...]) -> Tensor:
        """Class logits (B, num_classes, H, W), of the neck's maps."""
        return self.mask_head(x[0])

    def _mask_forward(self, x: tuple[Tensor, ...], rois: Tensor, **kwargs) -> dict:
        # Autocast would round rois to its type; mmcv's RoIAlign reads contiguous memory alone.
        logits = self.pixel_logits(x).float().contiguous()
        layer = self.mask_roi_extractor.roi_layers[0]
        mask_preds = roi_align(
            logits,
            rois,
            layer.output_size,
            layer.spatial_scale * self.upsampling,
            layer.sampling_ratio,
            layer.pool_mode,
            layer.aligned,
        )
        return dict(pixel_logits=logits, mask_preds=mask_preds)

    def mask_loss(
        self,
        x: tuple[Tensor, ...],
        sampling_results: list[SamplingResult],
        bbox_feats: Tensor,
        batch_gt_instances: list,
    ) -> dict:
        results = super().mask_loss(x, sampling_results, bbox_feats, batch_gt_instances)
        logits = results['pixel_logits']
        targets = class_maps(batch_gt_instances, logits)
        losses = results['loss_mask']
        losses['loss_pixel_bce'] = self.pixel_loss_weight * F.binary_cross_entropy_with_logits(
            logits, targets
        )
        losses['loss_pixel_dice'] = self.pixel_loss_weight * dice_loss(logits, targets)
        return results


def class_maps(batch_gt_instances: list, like: Tensor) -> Tensor:
    """How much of each pixel of `like` (B, C, H, W) the annotations of a class cover."""
    maps = []
    for instances in batch_gt_instances:
        masks = on_device(instances.masks, like.device) > 0
        of_classes = [instances.labels == label for label in range(like.shape[1])]
        union = torch.stack([(masks & each[:, None, None]).any(0) for each in of_classes])
        maps.append(F.adaptive_avg_pool2d(union.to(like.dtype), like.shape[2:]))
    return torch.stack(maps)


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - soft Dice, the mean over images and classes: a class that is absent is to be left out."""
    axes = (2, 3)
    found = logits.sigmoid()
    common = (found * targets).sum(axes)
    return (1 - (2 * common + 1) / (found.sum(axes) + targets.sum(axes) + 1)).mean()
