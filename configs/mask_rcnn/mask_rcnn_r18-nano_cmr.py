"""The small config on a ResNet-18 of half its channels, from scratch: what Swin is told by."""

_base_ = ['mask_rcnn_swin-nano_scratch-cmr.py']

model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=18,
        base_channels=32,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
)
