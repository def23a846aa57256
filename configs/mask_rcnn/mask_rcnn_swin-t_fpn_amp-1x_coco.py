"""Swin-T Mask R-CNN on COCO, 12 epochs, all images of one size: mmdet's published 1x."""

_base_ = ['mask_rcnn_swin-t_fpn_amp-ms-crop-1x_coco.py']

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
model = dict(backbone=dict(drop_path_rate=0.2))
