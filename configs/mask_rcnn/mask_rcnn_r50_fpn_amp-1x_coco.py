"""ResNet-50 Mask R-CNN on COCO from ImageNet weights, 12 epochs, all images of one size."""

_base_ = ['../_base_/models/mask_rcnn_r50_fpn.py', '../_base_/recipes/coco_1x.py']

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

optim_wrapper = dict(
    _delete_=True,
    **_base_.amp_fp16,
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4),
)
