"""The model in the box, `swin_ext://cmr-nano`: left ventricle, on Sunnybrook and AutoFD.

The last stage of three: docs/models/cmr-nano.md has the commands, the data and the figures.
`data_root` holds the folders sunnybrook_png and autofd, each with its annotation files and images.
"""

_base_ = ['../mask_rcnn_swin-nano_cmr.py', '../_base_/schedules/amp_bf16.py']

num_classes = 1
max_epochs = 6
image_scale = (256, 256)
load_from = 'work_dirs/sunnybrook_png/best_coco_segm_mAP_iter_1926.pth'
randomness = dict(seed=1)

metainfo = dict(classes=('LV',))
# The same window whatever a slice is stored in: 8-bit PNG here, 12-bit DICOM at a scanner.
image = dict(type='LoadCMRImage', window='slice')
train_pipeline = [
    image,
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', ratio_range=(0.8, 1.2), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [image, *_base_.test_pipeline[1:]]

sunnybrook = dict(
    type='CMRDataset',
    ann_file='sunnybrook_png/train.json',
    data_prefix=dict(img='sunnybrook_png/images/'),
    metainfo=metainfo,
    pipeline=train_pipeline,
)
# Slices above the base and below the apex are here to be left empty.
autofd = dict(
    type='CMRDataset',
    ann_file='autofd/train.json',
    data_prefix=dict(img='autofd/images/'),
    metainfo=metainfo,
    pipeline=train_pipeline,
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[sunnybrook, dict(type='RepeatDataset', times=3, dataset=autofd)],
        ignore_keys=['ann_file', 'preprocessing'],
    )
)
val_dataloader = dict(
    dataset=dict(
        ann_file='sunnybrook_png/val.json',
        data_prefix=dict(img='sunnybrook_png/images/'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    )
)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, val_begin=700, val_interval=100)
optim_wrapper = dict(**_base_.amp_bf16, optimizer=dict(lr=3e-4))
