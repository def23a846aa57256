# Mask R-CNN with Swin V2-T (https://arxiv.org/abs/2111.09883) and FPN.
_base_ = ['mask_rcnn_swin-s_fpn.py']

model = dict(backbone=dict(arch='v2-tiny'))
