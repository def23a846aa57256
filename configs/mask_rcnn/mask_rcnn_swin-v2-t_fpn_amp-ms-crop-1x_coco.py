"""Swin V2-T Mask R-CNN on COCO from ImageNet-1K weights, 12 epochs."""

_base_ = [
    '../_base_/models/mask_rcnn_swin-v2-t_fpn.py',
    '../_base_/recipes/coco_1x.py',
]

imagenet = (
    'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
    'swinv2_tiny_patch4_window8_256.pth'
)
model = dict(backbone=dict(frozen_stages=-1, init_cfg=dict(type='Pretrained', checkpoint=imagenet)))
