# Mask R-CNN with Swin-T and FPN.
_base_ = ['mask_rcnn_swin-s_fpn.py']

model = dict(backbone=dict(arch='tiny'))
