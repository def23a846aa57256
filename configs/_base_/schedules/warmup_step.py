# Linear warm-up, then a tenth of the learning rate after 60 % and after 90 % of the run. Use it by
#   param_scheduler = _base_.warmup_step
warmup_step = [
    dict(
        type='WarmupStepLR',
        warmup=0.05,
        milestones=(0.6, 0.9),
        gamma=0.1,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
