"""The small config with masks cut out of one map of class logits, from the model in the box.

For one object of a class in an image; what it is better and worse at: docs/recipes.md
"""

_base_ = ['../mask_rcnn_swin-nano_cmr.py']

load_from = 'swin_ext://cmr-nano'

model = dict(
    roi_head=dict(
        type='PixelMaskRoIHead',
        mask_roi_extractor=dict(roi_layer=dict(output_size=56, sampling_ratio=1)),
        mask_head=dict(conv_out_channels=32, norm_cfg=dict(type='GN', num_groups=8)),
    ),
    train_cfg=dict(rcnn=dict(mask_size=56)),
)

# A few patients do not show how bright, how turned and how large others are.
train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', ratio_range=(0.8, 1.05), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='CMRRandomGamma', gamma_range=(0.6, 1.7), prob=0.7),
    dict(type='CMRRandomBiasField', coeff_range=(-0.2, 0.2), prob=0.4),
    dict(type='CMRRandomRotate', angle_range=(-25, 25), prob=0.5),
    dict(type='PackDetInputs'),
]
# Slices without a structure teach where there is none.
train_dataloader = dict(
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline)
)
