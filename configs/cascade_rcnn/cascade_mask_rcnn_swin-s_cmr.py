"""Swin-S Cascade Mask R-CNN for cardiac MR on one GPU, from COCO weights."""

_base_ = [
    '../_base_/models/cascade_mask_rcnn_swin-s_fpn.py',
    '../_base_/datasets/cmr_instance.py',
    '../_base_/runtime/cmr_runtime.py',
    '../_base_/schedules/adamw.py',
    '../_base_/schedules/no_decay.py',
    '../_base_/schedules/one_cycle.py',
    '../_base_/schedules/amp_fp16.py',
]

num_classes = 3  # SwinExtRunner hands it to the heads
max_epochs = 12

load_from = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.2/'
    'cascade_mask_rcnn_swin_small_patch4_window7.pth'
)

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_begin=1000, val_interval=200
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    **_base_.amp_fp16,
    **_base_.no_decay,
    optimizer=_base_.adamw,
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = _base_.one_cycle
auto_scale_lr = dict(enable=False, base_batch_size=4)
