"""Mask2Former with ResNet-101 for cardiac MR, from COCO weights."""

_base_ = ['mask2former_r50_cmr.py']

load_from = (
    'https://download.openmmlab.com/mmdetection/v3.0/mask2former/'
    'mask2former_r101_8xb2-lsj-50e_coco/'
    'mask2former_r101_8xb2-lsj-50e_coco_20220426_100250-ecf181e2.pth'
)
model = dict(backbone=dict(depth=101))
