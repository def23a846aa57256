# Mask R-CNN with Swin-S and FPN: mmdet's model with this package's backbone.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py']

custom_imports = dict(imports=['swin_ext'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(type='AsyncDetDataPreprocessor'),
    backbone=dict(
        _delete_=True, type='SwinBackbone', arch='small', drop_path_rate=0.2, frozen_stages=2
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
