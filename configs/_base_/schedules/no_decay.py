# No weight decay for norms, position embeddings and bias tables of Swin; `logit_scale` and
# `cpb_mlp` are of Swin V2 (https://github.com/microsoft/Swin-Transformer). Use it by
#   optim_wrapper = dict(**_base_.no_decay)
no_decay = dict(
    constructor='GroupedOptimWrapperConstructor',
    paramwise_cfg=dict(
        no_decay=['absolute_pos_embed', 'relative_position_bias_table', 'logit_scale', 'cpb_mlp']
    ),
)
