# The same in 12 epochs.
_base_ = ['coco_3x.py']

max_epochs = 12

train_cfg = dict(max_epochs=max_epochs)
# Of 12 epochs with 7330 iterations: 1000 iterations of warm-up, steps after epochs 8 and 11.
param_scheduler = [
    dict(
        type='WarmupStepLR',
        warmup=0.0114,
        milestones=(8 / 12, 11 / 12),
        gamma=0.1,
        by_epoch=True,
        convert_to_iter_based=True,
    )
]
