"""Swin-S Mask R-CNN on COCO from ImageNet-1K weights, 12 epochs."""

_base_ = [
    '../_base_/models/mask_rcnn_swin-s_fpn.py',
    '../_base_/recipes/coco_1x.py',
]

imagenet = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_small_patch4_window7_224.pth'
)
model = dict(backbone=dict(frozen_stages=-1, init_cfg=dict(type='Pretrained', checkpoint=imagenet)))
