"""UPerNet with Swin-T on ADE20K, as published: 8 GPUs, 160,000 iterations, ImageNet weights."""

_base_ = [
    '../_base_/models/upernet_swin-t.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/runtime/seg_runtime.py',
    '../_base_/schedules/no_decay.py',
]

num_classes = 150
max_iters = 160000

model = dict(
    data_preprocessor=dict(size=(512, 512), size_divisor=None),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
            'swin_tiny_patch4_window7_224.pth',
        )
    ),
)

train_cfg = dict(type='ResumableIterTrainLoop', max_iters=max_iters, val_interval=16000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=16000, max_keep_ckpts=1))

optim_wrapper = dict(
    **_base_.no_decay,
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, by_epoch=False),
]
# What the learning rate is meant for.
auto_scale_lr = dict(enable=False, base_batch_size=16)
