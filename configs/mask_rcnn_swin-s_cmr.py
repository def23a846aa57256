"""Swin-S Mask R-CNN for cardiac MR on one GPU, from COCO weights."""
_base_ = [
    '_base_/mask_rcnn_swin-s_fpn.py', '_base_/cmr_dataset.py', '_base_/cmr_runtime.py'
]

num_classes = 3  # SwinExtRunner hands it to the heads
max_epochs = 12

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-'
    '3x_coco/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth')

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_begin=1000, val_interval=200)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys=dict(
            absolute_pos_embed=dict(decay_mult=0.0),
            relative_position_bias_table=dict(decay_mult=0.0))),
    clip_grad=dict(max_norm=10, norm_type=2))

# Warm-up over the first tenth of the run, then cosine decay.
param_scheduler = [
    dict(
        type='OneCycleLR',
        eta_max=1e-4,
        total_steps=max_epochs,
        pct_start=0.1,
        by_epoch=True,
        convert_to_iter_based=True)
]
