"""Mask2Former with ResNet-50 for cardiac MR, from COCO weights: what Swin is compared with."""

_base_ = ['mask2former_swin-t_cmr.py']

load_from = (
    'https://download.openmmlab.com/mmdetection/v3.0/mask2former/'
    'mask2former_r50_8xb2-lsj-50e_coco/'
    'mask2former_r50_8xb2-lsj-50e_coco_20220506_191028-41b088b6.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        frozen_stages=-1,
        norm_cfg=dict(type='BN', requires_grad=False),
        norm_eval=True,
        style='pytorch',
    ),
    panoptic_head=dict(in_channels=[256, 512, 1024, 2048]),
)
