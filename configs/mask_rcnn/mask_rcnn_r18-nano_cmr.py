"""The small config on a ResNet-18 of half its channels, from scratch: what Swin is told by."""

_base_ = ['mask_rcnn_swin-nano_scratch-cmr.py']

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=32, norm_eval=False)
)
