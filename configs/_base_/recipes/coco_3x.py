# How the published Swin detectors were trained on COCO, all but the model: 36 epochs in batches of
# 16 (8 GPUs x 2), multi-scale crops, AdamW, float16
# (https://github.com/SwinTransformer/Swin-Transformer-Object-Detection, mmdet's configs/swin).
_base_ = [
    '../datasets/coco_instance_ms-crop.py',
    '../runtime/cmr_runtime.py',
    '../schedules/adamw.py',
    '../schedules/no_decay.py',
    '../schedules/amp_fp16.py',
]

max_epochs = 36

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_interval=1, val_by_epoch=True
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(**_base_.amp_fp16, **_base_.no_decay, optimizer=_base_.adamw)
# Of 36 epochs with 7330 iterations: 1000 iterations of warm-up, steps after epochs 27 and 33.
param_scheduler = [
    dict(
        type='WarmupStepLR',
        warmup=0.0038,
        milestones=(27 / 36, 33 / 36),
        gamma=0.1,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=1000))
