"""ResNet-50 Mask R-CNN for cardiac MR, from COCO weights: the flagship with another backbone."""

_base_ = ['../mask_rcnn_swin-s_cmr.py', '../_base_/schedules/sgd.py']

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly'
    '_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
)
model = dict(
    backbone=dict(
        _delete_=True,
        type='ResNet',
        depth=50,
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
    ),
    neck=dict(in_channels=[256, 512, 1024, 2048]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, **_base_.sgd))
