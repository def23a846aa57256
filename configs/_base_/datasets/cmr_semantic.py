# Cardiac MR for MMSegmentation: data_root holds images/, and what tools/coco2semantic.py writes
# there, labels/, train.txt and val.txt. Set it by the environment variable CMR_DATA or by
# --cfg-options data_root=...; image_scale goes to the transforms that resize. Other classes than
# these are set in the three data sets' metainfo, and num_classes to their number.
data_root = '{{$CMR_DATA:data/cmr_phantom}}'
image_scale = (256, 256)
metainfo = dict(classes=('background', 'LV', 'Myo', 'RV'))

train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='Resize', keep_ratio=True),
    # behind the Resize: predictions are compared in the size of the file
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
_files = dict(
    type='BaseSegDataset',
    data_prefix=dict(img_path='images', seg_map_path='labels'),
    img_suffix='.png',
    seg_map_suffix='.png',
    metainfo=metainfo,
)

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # where there is a CUDA device
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(**_files, ann_file='train.txt', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,  # images of a batch must be of one size
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,  # where there is a CUDA device
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(**_files, ann_file='val.txt', test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader

val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU', 'mDice'])
test_evaluator = val_evaluator
