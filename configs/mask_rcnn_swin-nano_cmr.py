"""The flagship made small: trains in minutes on a CPU, from the model in the box.

Why it is as it is: docs/recipes.md
"""

_base_ = ['mask_rcnn_swin-s_cmr.py']

max_epochs = 1  # enough for the phantom; small sets need more
image_scale = (192, 192)
# Of the LV; heads of other classes begin anew. load_from=None trains from scratch.
load_from = 'swin_ext://cmr-nano'

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinBackbone',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=64),
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        bbox_head=dict(in_channels=64, fc_out_channels=256),
        mask_roi_extractor=dict(out_channels=64, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=64, conv_out_channels=64),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=100), rcnn=dict(max_per_img=20)),
)

# A few patients do not show how bright, how turned and how large others are.
train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', ratio_range=(0.8, 1.0), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='CMRRandomGamma', gamma_range=(0.6, 1.7), prob=0.7),
    dict(type='CMRRandomBiasField', coeff_range=(-0.2, 0.2), prob=0.4),
    dict(type='CMRRandomRotate', angle_range=(-25, 25), prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    # Slices without a structure teach where there is none.
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, val_begin=400, val_interval=400)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3))
