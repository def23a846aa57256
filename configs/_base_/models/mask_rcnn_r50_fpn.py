# Mask R-CNN with ResNet-50 and FPN: mmdet's model as it is.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py']

custom_imports = dict(imports=['swin_ext'], allow_failed_imports=False)
