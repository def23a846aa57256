"""Swin-T Mask R-CNN for cardiac MR, from COCO weights: the flagship with the smaller backbone."""

_base_ = ['../mask_rcnn_swin-s_cmr.py']

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-t-p4-w7_fpn_fp16_ms-'
    'crop-3x_coco/mask_rcnn_swin-t-p4-w7_fpn_fp16_ms-crop-3x_coco_20210908_165006-90a4008c.pt'
    'h'
)
model = dict(backbone=dict(arch='tiny'))
