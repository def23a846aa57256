"""The small config with masks cut out of one map of class logits.

For one object of a class in an image; what it is better and worse at: docs/recipes.md
"""

_base_ = ['../mask_rcnn_swin-nano_cmr.py']

model = dict(
    roi_head=dict(
        type='PixelMaskRoIHead',
        mask_roi_extractor=dict(roi_layer=dict(output_size=56, sampling_ratio=1)),
        mask_head=dict(conv_out_channels=32, norm_cfg=dict(type='GN', num_groups=8)),
    ),
    train_cfg=dict(rcnn=dict(mask_size=56)),
)
