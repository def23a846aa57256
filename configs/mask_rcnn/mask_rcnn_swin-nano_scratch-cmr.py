"""The small config from scratch: what the model in the box gives is told by it."""

_base_ = ['../mask_rcnn_swin-nano_cmr.py']

load_from = None
