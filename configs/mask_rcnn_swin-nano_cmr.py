"""The flagship made small: trains from scratch in minutes on a CPU."""

_base_ = ['mask_rcnn_swin-s_cmr.py']

max_epochs = 2  # enough for the phantom; small sets need more
image_scale = (192, 192)
load_from = None

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

train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False)
val_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=max_epochs, val_begin=400, val_interval=400)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3))
