# Cascade Mask R-CNN with Swin-B and FPN.
_base_ = ['cascade_mask_rcnn_swin-s_fpn.py']

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.3), neck=dict(in_channels=[128, 256, 512, 1024])
)
