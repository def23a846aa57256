# A third of the learning rate after 4 validations in a row that are not better by 0.001. Use it by
#   param_scheduler = _base_.reduce_on_plateau
reduce_on_plateau = [
    dict(
        type='ReduceOnPlateauLR',
        monitor='coco/segm_mAP',
        rule='greater',
        factor=1 / 3,
        patience=3,  # that are ignored
        threshold=1e-3,
        threshold_rule='abs',
    )
]
