"""Swin-B Mask R-CNN for cardiac MR.

There are no published weights of a Swin-B Mask R-CNN. Of those of Cascade Mask R-CNN, backbone,
neck and RPN fit; box and mask heads start anew, as the report on the loading says.
"""

_base_ = ['../mask_rcnn_swin-s_cmr.py']

load_from = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.2/'
    'cascade_mask_rcnn_swin_base_patch4_window7.pth'
)
model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[128, 256, 512, 1024])
)
