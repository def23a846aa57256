"""Mask2Former with Swin-T for cardiac MR on one GPU, from COCO weights: below 1,000 images.

A short fine-tuning: AdamW, a tenth of the learning rate for the backbone, a warm-up of 100
iterations and steps after 60 % and 90 % of `max_iters`, which is from 500 for some hundred images
to 3,000.
"""

_base_ = [
    '../_base_/models/mask2former_swin-t.py',
    '../_base_/datasets/cmr_instance.py',
    '../_base_/runtime/cmr_runtime.py',
    '../_base_/schedules/adamw.py',
    '../_base_/schedules/amp_fp16.py',
    '../_base_/schedules/warmup_step.py',
]

num_classes = 3  # SwinExtRunner hands it to the heads
max_iters = 1000
image_scale = (512, 512)

load_from = (
    'https://download.openmmlab.com/mmdetection/v3.0/mask2former/'
    'mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco/'
    'mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco_20220508_091649-01b0f990.pth'
)
# Some structures in an image; each is a mask of the image's size.
model = dict(test_cfg=dict(max_per_image=20))

train_cfg = dict(
    type='ResumableIterTrainLoop', max_iters=max_iters, val_begin=200, val_interval=100
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    **_base_.amp_fp16,
    constructor='GroupedOptimWrapperConstructor',
    paramwise_cfg=dict(
        lr_mult=dict(backbone=0.1),
        no_decay=[
            'absolute_pos_embed',
            'relative_position_bias_table',
            'query_embed',
            'query_feat',
            'level_embed',
        ],
    ),
    optimizer=_base_.adamw,
    clip_grad=dict(max_norm=0.01, norm_type=2),
)
param_scheduler = [
    dict(_base_.warmup_step[0], warmup=100, by_epoch=False, convert_to_iter_based=False)
]
# What the learning rate is meant for.
auto_scale_lr = dict(enable=False, base_batch_size=4)
