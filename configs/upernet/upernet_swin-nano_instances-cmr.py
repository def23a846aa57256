"""UPerNet on the backbone of the small config, from scratch, for the data sets of detectors.

For comparisons (docs/comparing.md): data, schedule and loss are those of the U-Nets, and all pixels
of a class are one instance. AdamW is that of the small Mask R-CNN, whose backbone it is.
"""

_base_ = [
    '../unet/unet_monai-basic_cmr.py',
    '../_base_/schedules/adamw.py',
    '../_base_/schedules/no_decay.py',
]

custom_imports = dict(
    imports=['swin_ext', 'swin_ext.experiments.mmseg_pixel_classifier'],
    allow_failed_imports=False,
)

num_classes = 3  # without the background

norm_cfg = dict(type='BN', requires_grad=True)
# With mmsegmentation's std of 0.01, all pixels stay background for hundreds of iterations: on the
# phantom at 64 px (tools/compare.py, one seed), mean Dice was 0 after 290, and 0.51 after 150 so.
init_cfg = dict(type='Normal', std=0.1, override=dict(name='conv_seg'))
model = dict(
    _delete_=True,
    type='MmsegPixelClassifier',
    num_classes=num_classes,
    data_preprocessor=dict(
        type='DetDataPreprocessor', pad_size_divisor=32, pad_mask=True, mask_pad_value=0
    ),
    backbone=dict(
        type='SwinBackbone',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
    ),
    decode_head=dict(
        type='mmseg.UPerHead',
        in_channels=[32, 64, 128, 256],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=64,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        init_cfg=init_cfg,
    ),
    auxiliary_head=dict(
        type='mmseg.FCNHead',
        in_channels=128,
        in_index=2,
        channels=32,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        norm_cfg=norm_cfg,
        align_corners=False,
        init_cfg=init_cfg,
    ),
)

# The head pools an image to one pixel, which batch norm cannot normalise in a batch of one image.
train_dataloader = dict(drop_last=True)

optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    **_base_.no_decay,
    optimizer=dict(_base_.adamw, lr=1e-3),
    clip_grad=dict(max_norm=10, norm_type=2),
)
