"""Swin-S Mask R-CNN for cardiac MR on one GPU, from COCO weights."""

_base_ = [
    '_base_/models/mask_rcnn_swin-s_fpn.py',
    '_base_/datasets/cmr_instance.py',
    '_base_/runtime/cmr_runtime.py',
    '_base_/schedules/adamw.py',
    '_base_/schedules/no_decay.py',
    '_base_/schedules/one_cycle.py',
    '_base_/schedules/amp_fp16.py',
]

num_classes = 3  # SwinExtRunner hands it to the heads
max_epochs = 12

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-'
    '3x_coco/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth'
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
# What the learning rate is meant for. With enable=True it follows ranks x batch_size x
# accumulative_counts; `--auto-scale-lr` of the training script does the same.
auto_scale_lr = dict(enable=False, base_batch_size=4)
