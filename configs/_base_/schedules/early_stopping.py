# Stop after 10 validations in a row that are not better by 0.001. Use it by
#   default_hooks = dict(early_stopping=_base_.early_stopping)
early_stopping = dict(
    type='ResumableEarlyStoppingHook',
    monitor='coco/segm_mAP',
    rule='greater',
    strict=True,  # a metric that does not exist ends the run, as a slip would
    min_delta=1e-3,
    patience=10,
)
