"""The same made small: trains from scratch in minutes on a CPU."""

_base_ = ['upernet_swin-t_cmr.py']

max_iters = 400
image_scale = (128, 128)
load_from = None

model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinBackbone',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
    ),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=64),
    auxiliary_head=dict(in_channels=128, channels=32),
)

train_dataloader = dict(num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(max_iters=max_iters, val_begin=100, val_interval=100)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=1e-3))
