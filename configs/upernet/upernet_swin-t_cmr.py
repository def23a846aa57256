"""UPerNet with Swin-T for cardiac MR on one GPU, from ADE20K weights: a label for each pixel.

`python tools/coco2semantic.py DATA` makes label maps of a COCO data set for it.
"""

_base_ = [
    '../_base_/models/upernet_swin-t.py',
    '../_base_/datasets/cmr_semantic.py',
    '../_base_/runtime/seg_runtime.py',
    '../_base_/schedules/adamw.py',
    '../_base_/schedules/no_decay.py',
    '../_base_/schedules/amp_fp16.py',
    '../_base_/schedules/warmup_step.py',
]

num_classes = 4  # with the background; SwinExtRunner hands it to the heads
max_iters = 2000

load_from = (
    'https://download.openmmlab.com/mmsegmentation/v0.5/swin/'
    'upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K/'
    'upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_20210531_112542-'
    'e380ad3e.pth'
)
best = dict(metric='mDice')
# Most pixels are background, which cross entropy alone predicts everywhere for long: beside it the
# Dice loss of each class, as mmseg's DiceLoss is one of all pixels, background and all.
model = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
            dict(type='TverskyLoss', alpha=0.5, beta=0.5, loss_weight=1.0, loss_name='loss_dice'),
        ]
    )
)

train_cfg = dict(
    type='ResumableIterTrainLoop', max_iters=max_iters, val_begin=200, val_interval=200
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    **_base_.amp_fp16,
    **_base_.no_decay,
    optimizer=_base_.adamw,
    clip_grad=dict(max_norm=1, norm_type=2),
)
param_scheduler = [
    dict(_base_.warmup_step[0], warmup=100, by_epoch=False, convert_to_iter_based=False)
]
# What the learning rate is meant for.
auto_scale_lr = dict(enable=False, base_batch_size=8)
