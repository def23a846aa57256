"""MONAI's BasicUNet, 0.5 M parameters, from scratch: what a user would take instead of a detector.

Dice and cross-entropy over classes and background, Adam at 1e-3 decaying to 0, flips, scales and
noise. All slices train it, also those without a label.
"""

_base_ = [
    '../_base_/datasets/cmr_instance.py',
    '../_base_/runtime/cmr_runtime.py',
]

custom_imports = dict(
    imports=['swin_ext', 'swin_ext.experiments.monai_unet'], allow_failed_imports=False
)

num_classes = 3
max_epochs = 30
image_scale = (192, 192)

model = dict(
    type='MonaiUNet',
    network='BasicUNet',
    num_classes=num_classes,
    network_args=dict(features=(16, 16, 32, 64, 128, 16)),
    data_preprocessor=dict(
        type='DetDataPreprocessor', pad_size_divisor=32, pad_mask=True, mask_pad_value=0
    ),
)

train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='CMRRandomNoise'),
    dict(type='RandomResize', ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=train_pipeline, filter_cfg=dict(filter_empty_gt=False)),
)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_begin=400, val_interval=400
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = [dict(type='PolyLR', power=0.9, by_epoch=True, convert_to_iter_based=True)]
