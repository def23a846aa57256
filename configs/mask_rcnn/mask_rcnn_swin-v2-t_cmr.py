"""Swin V2-T Mask R-CNN for cardiac MR, from ImageNet-1K: no detector is published with it."""

_base_ = ['../mask_rcnn_swin-s_cmr.py']

load_from = None
imagenet = (
    'https://github.com/SwinTransformer/storage/releases/download/v2.0.0/'
    'swinv2_tiny_patch4_window8_256.pth'
)
model = dict(backbone=dict(arch='v2-tiny', init_cfg=dict(type='Pretrained', checkpoint=imagenet)))
