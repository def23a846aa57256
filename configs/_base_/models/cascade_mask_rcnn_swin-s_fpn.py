# Cascade Mask R-CNN with Swin-S and FPN: mmdet's model with this package's backbone, and the box
# heads of the published ones (https://github.com/SwinTransformer/Swin-Transformer-Object-Detection,
# 4conv1f): four convolutions with SyncBN, and GIoU of decoded boxes as the loss.
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py']

custom_imports = dict(imports=['swin_ext'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(type='AsyncDetDataPreprocessor'),
    backbone=dict(
        _delete_=True, type='SwinBackbone', arch='small', drop_path_rate=0.2, frozen_stages=2
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
    roi_head=dict(
        bbox_head=[
            dict(
                type='Shared4Conv1FCBBoxHead',
                in_channels=256,
                conv_out_channels=256,
                fc_out_channels=1024,
                roi_feat_size=7,
                num_classes=80,
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=stds
                ),
                reg_class_agnostic=False,
                reg_decoded_bbox=True,
                norm_cfg=dict(type='SyncBN', requires_grad=True),
                loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
                loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
            )
            for stds in ([0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067])
        ]
    ),
)
