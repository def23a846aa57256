# A tenth of the learning rate for the backbone, which is pretrained; with any schedule. Use it by
#   optim_wrapper = dict(**_base_.slow_backbone)
slow_backbone = dict(
    constructor='GroupedOptimWrapperConstructor', paramwise_cfg=dict(lr_mult=dict(backbone=0.1))
)
