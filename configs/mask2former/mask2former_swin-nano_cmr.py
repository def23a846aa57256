"""Mask2Former made small: trains from scratch in minutes on a CPU.

For comparisons (docs/comparing.md): backbone, images, augmentations, batches, loop, optimizer and
schedule are those of mask_rcnn_swin-nano_scratch-cmr.py, so that it counts epochs.
"""

_base_ = [
    '../_base_/models/mask2former_swin-t.py',
    '../_base_/datasets/cmr_instance.py',
    '../_base_/runtime/cmr_runtime.py',
    '../_base_/schedules/adamw.py',
    '../_base_/schedules/one_cycle.py',
]

num_classes = 3  # SwinExtRunner hands it to the heads
max_epochs = 1
image_scale = (192, 192)

attention = dict(embed_dims=64)
feed_forward = dict(embed_dims=64, feedforward_channels=128)
positions = dict(num_feats=32)
model = dict(
    backbone=dict(
        _delete_=True,
        type='SwinBackbone',
        arch=dict(embed_dims=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8)),
        drop_path_rate=0.0,
    ),
    panoptic_head=dict(
        in_channels=[32, 64, 128, 256],
        feat_channels=64,
        out_channels=64,
        num_queries=20,
        pixel_decoder=dict(
            encoder=dict(
                num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feed_forward)
            ),
            positional_encoding=positions,
        ),
        positional_encoding=positions,
        transformer_decoder=dict(
            num_layers=3,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=feed_forward),
        ),
    ),
    # Of masks of 48 x 48, where the published number is for 256 x 256.
    train_cfg=dict(num_points=1024),
    # At most num_queries x num_classes, with one class, too.
    test_cfg=dict(max_per_image=20),
)

# As in mask_rcnn_swin-nano_cmr.py.
train_pipeline = [
    dict(type='LoadCMRImage'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='RandomResize', ratio_range=(0.8, 1.0), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='CMRRandomGamma', gamma_range=(0.6, 1.7), prob=0.7),
    dict(type='CMRRandomBiasField', coeff_range=(-0.2, 0.2), prob=0.4),
    dict(type='CMRRandomRotate', angle_range=(-25, 25), prob=0.5),
    dict(type='PackDetInputs'),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=train_pipeline),
)
val_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

train_cfg = dict(
    type='EpochTrainLoopWithIterVal', max_epochs=max_epochs, val_begin=400, val_interval=400
)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    constructor='GroupedOptimWrapperConstructor',
    paramwise_cfg=dict(
        no_decay=[
            'absolute_pos_embed',
            'relative_position_bias_table',
            'query_embed',
            'query_feat',
            'level_embed',
        ]
    ),
    optimizer=dict(_base_.adamw, lr=1e-3),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = _base_.one_cycle
