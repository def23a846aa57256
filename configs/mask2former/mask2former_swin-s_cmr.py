"""Mask2Former with Swin-S for cardiac MR, from COCO weights: 1,000 to 5,000 images."""

_base_ = ['mask2former_swin-t_cmr.py']

max_iters = 2000
load_from = (
    'https://download.openmmlab.com/mmdetection/v3.0/mask2former/'
    'mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco/'
    'mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco_20220504_001756-c9d0c4f2.pth'
)
model = dict(backbone=dict(arch='small'))
train_cfg = dict(max_iters=max_iters)
