"""Mask2Former with Swin-B for cardiac MR, from COCO weights: more than 5,000 images.

mmdet has no weights of it for instances; these are the authors', of detectron2, which are converted
as they are loaded. Windows are of 12 tokens, as they were trained.
"""

_base_ = ['mask2former_swin-t_cmr.py']

max_iters = 3000
load_from = (
    'https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/instance/'
    'maskformer2_swin_base_IN21k_384_bs16_50ep/model_final_83d103.pkl'
)
model = dict(
    backbone=dict(arch='base', window_size=12),
    panoptic_head=dict(in_channels=[128, 256, 512, 1024]),
)
train_cfg = dict(max_iters=max_iters)
