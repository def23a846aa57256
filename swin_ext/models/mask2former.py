"""mmdet's Mask2Former, for mixed precision.

Its authors leave the pixel decoder ("deformable detr does not support half precision"), the
matching and the losses out of it (https://github.com/facebookresearch/Mask2Former,
mask2former/modeling/{pixel_decoder/msdeformattn,matcher}.py). mmdet computes all under autocast
(https://github.com/open-mmlab/mmdetection/issues/10909): the losses of masks are divided by a
number of points that is infinite in float16 for 6 objects and more, which makes them 0; and in
bfloat16 the costs by which queries are matched have two digits. Without autocast these classes are
mmdet's.
"""

from __future__ import annotations

from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.layers import MSDeformAttnPixelDecoder
from mmengine.registry import MODELS
from torch import Tensor, autocast


@MODELS.register_module()
class Float32PixelDecoder(MSDeformAttnPixelDecoder):
    """`MSDeformAttnPixelDecoder`, in float32 whatever its input is."""

    def forward(self, feats: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Mask features (B, C, H / 4, W / 4), and maps of three scales, from the lowest."""
        with autocast(feats[0].device.type, enabled=False):
            return super().forward([x.float() for x in feats])


@MODELS.register_module()
class Float32LossMask2FormerHead(Mask2FormerHead):
    """`Mask2FormerHead`, which matches and computes losses in float32."""

    def loss_by_feat(
        self, all_cls_scores: list[Tensor], all_mask_preds: list[Tensor], *args, **kwargs
    ) -> dict[str, Tensor]:
        """Losses of scores (B, queries, classes + 1) and masks (B, queries, H, W) of each layer."""
        with autocast(all_cls_scores[0].device.type, enabled=False):
            return super().loss_by_feat(
                [x.float() for x in all_cls_scores],
                [x.float() for x in all_mask_preds],
                *args,
                **kwargs,
            )
