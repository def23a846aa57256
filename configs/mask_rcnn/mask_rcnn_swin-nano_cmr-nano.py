"""The model in the box, `swin_ext://cmr-nano`: left ventricle, from the phantom's weights.

See docs/models/cmr-nano.md for the commands, the data and the figures.
"""

_base_ = ['../mask_rcnn_swin-nano_cmr.py', '../_base_/schedules/amp_bf16.py']

num_classes = 1
max_epochs = 18
image_scale = (256, 256)
load_from = 'work_dirs/demo/best_coco_segm_mAP_iter_232.pth'  # what `make demo` trains
randomness = dict(seed=1)

train_cfg = dict(max_epochs=max_epochs, val_begin=1500, val_interval=400)
optim_wrapper = dict(**_base_.amp_bf16)
