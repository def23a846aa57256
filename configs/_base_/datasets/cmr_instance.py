# Cardiac MR in COCO JSON: data_root holds train.json, val.json and the folder images/.
# Set data_root by the environment variable CMR_DATA or by --cfg-options data_root=...;
# SwinExtRunner hands it to the data sets below, and image_scale to the transforms that resize.
data_root = '{{$CMR_DATA:data/cmr_phantom}}'
image_scale = (800, 800)

train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='Resize', keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # where there is a CUDA device
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CMRDataset',
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        filter_cfg=dict(filter_empty_gt=True),
        other_splits=['val.json'],  # no patient may be in both
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CMRDataset',
        ann_file='val.json',
        data_prefix=dict(img='images/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = [
    dict(type='FastCocoMetric', metric=['bbox', 'segm'], classwise=True),
    dict(type='CMRMetric'),
]
test_evaluator = val_evaluator
