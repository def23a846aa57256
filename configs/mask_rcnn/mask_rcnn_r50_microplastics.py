"""ResNet-50 Mask R-CNN for microplastics (fibres, fragments, films) in colour photographs.

`data_root` holds train.json, val.json and images/. The learning rate and the end of the training
follow the validation loss; the best checkpoint is that of the highest mask AP at an IoU of 0.5.
All weights are COCO's but those of the classes. torchvision's file does as well:
load_from=https://download.pytorch.org/models/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth
"""

_base_ = [
    '../_base_/models/mask_rcnn_r50_fpn.py',
    '../_base_/datasets/cmr_instance.py',
    '../_base_/runtime/cmr_runtime.py',
]

data_root = 'data/microplastics'
image_scale = (1333, 800)
num_classes = 3
max_epochs = 50

load_from = (
    'https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r50_fpn_mstrain-poly'
    '_3x_coco/mask_rcnn_r50_fpn_mstrain-poly_3x_coco_20210524_201154-21b550bb.pth'
)
model = dict(backbone=dict(init_cfg=None))

metainfo = dict(classes=('Fiber', 'Fragment', 'Film'))
train_dataloader = dict(batch_size=2, dataset=dict(metainfo=metainfo))
val_dataloader = dict(batch_size=2, dataset=dict(metainfo=metainfo))
test_dataloader = val_dataloader
val_evaluator = [dict(type='FastCocoMetric', metric=['bbox', 'segm'], classwise=True)]
test_evaluator = val_evaluator

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_interval=1, val_by_epoch=True
)
val_cfg = dict(type='ValLoopWithLoss')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=1.0, norm_type=2),
)
param_scheduler = [
    dict(type='ReduceOnPlateauLR', monitor='val/loss', rule='less', factor=0.1, patience=5)
]
default_hooks = dict(
    early_stopping=dict(
        type='ResumableEarlyStoppingHook',
        monitor='val/loss',
        rule='less',
        strict=True,
        min_delta=0.0,
        patience=10,
    )
)
best = dict(metric='coco/segm_mAP_50')
auto_scale_lr = dict(enable=False, base_batch_size=2)
