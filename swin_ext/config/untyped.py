"""Keys of the dicts that a config gives no `type`, by where they stand.

The classes that read them take whatever they are given, and leave a misspelt key unread. Those of
models are what MMDetection 3.3 and MMSegmentation 1.2 read (`cfg.get(...)` and `cfg....` in their
heads and detectors), for all families of models together. None is allowed for each key.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, create_model

Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0)]
Positive = Annotated[StrictInt, Field(gt=0)]
NotNegative = Annotated[StrictInt, Field(ge=0)]
Flag = StrictBool
Number = Union[StrictInt, float]  # noqa: UP007 -- Python 3.9


class Closed(BaseModel):
    """Any other key is refused."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


class Open(BaseModel):
    """Other keys are the user's own, unless one is a slip of a key of this dict."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


def keys(base: type[BaseModel], untyped: str, **typed: Any) -> type[BaseModel]:
    """A model with keys of any value, in one string, and keys of a type."""
    fields = {**dict.fromkeys(untyped.split(), Any), **typed}
    return create_model(
        base.__name__,
        __base__=base,
        **{k: (Optional[kind], None) for k, kind in fields.items()},  # noqa: UP045 -- Python 3.9
    )


CLIP_GRAD = keys(  # torch.nn.utils.clip_grad_norm_ and clip_grad_value_
    Closed,
    'norm_type',
    type=Literal['norm', 'value'],
    max_norm=Factor,
    clip_value=Factor,
    error_if_nonfinite=Flag,
    foreach=Flag,
)
SUPPRESSION = keys(  # mmcv.ops.batched_nms and what it calls
    Closed,
    'method',
    type=str,
    iou_threshold=Fraction,
    iou_thr=Fraction,
    score_threshold=Factor,
    min_score=Factor,
    sigma=Factor,
    offset=NotNegative,
    split_thr=Positive,
    max_num=StrictInt,
    class_agnostic=Flag,
)
ROI_LAYER = keys(  # RoIAlign and RoIPool in mmcv.ops
    Open,
    'output_size',
    type=str,
    spatial_scale=float,
    sampling_ratio=StrictInt,
    pool_mode=Literal['avg', 'max'],
    aligned=Flag,
    use_torchvision=Flag,
)
UPSAMPLING = keys(
    Open,
    'scale_factor upsample_kernel up_kernel up_group encoder_kernel encoder_dilation '
    'compressed_channels',
    type=str,
    mode=str,
    align_corners=Flag,
)
# Their `type` is no name of a registry, or the class gets more than these keys.
TYPE_IS_A_KEY = (CLIP_GRAD, SUPPRESSION, ROI_LAYER, UPSAMPLING)

SAMPLED_POINTS = dict(
    num_points=Positive, oversample_ratio=Factor, importance_sample_ratio=Fraction
)
RUN = {
    '^.env_cfg': keys(Closed, 'mp_cfg dist_cfg', cudnn_benchmark=Flag, resource_limit=Positive),
    'env_cfg.mp_cfg': keys(
        Closed,
        '',
        mp_start_method=Literal['fork', 'spawn', 'forkserver'],
        opencv_num_threads=NotNegative,
    ),
    'env_cfg.dist_cfg': keys(Open, 'timeout', backend=str, init_backend=str),
    '^.randomness': keys(Closed, '', seed=StrictInt, diff_rank_seed=Flag, deterministic=Flag),
    '^.auto_scale_lr': keys(Closed, '', enable=Flag, base_batch_size=Positive),
    # Without a type it is of SwinExtDistributedDataParallel.
    '^.model_wrapper_cfg': keys(
        Closed,
        '',
        gradient_compression=Literal['bf16', 'fp16'],
        static_graph=Flag,
        gradient_as_bucket_view=Flag,
        find_unused_parameters=Flag,
        broadcast_buffers=Flag,
        detect_anomalous_params=Flag,
        bucket_cap_mb=Positive,
    ),
    '^.custom_imports': keys(Closed, 'imports', allow_failed_imports=Flag),
    # Each is a hook by a name of the user's; these are MMEngine's and MMDetection's.
    '^.default_hooks': keys(
        Open,
        'runtime_info timer sampler_seed logger param_scheduler checkpoint visualization '
        'early_stopping ema',
    ),
    # torch.utils.data.DataLoader, and what Runner.build_dataloader takes out
    '^.*_dataloader': keys(
        Closed,
        'dataset sampler batch_sampler collate_fn worker_init_fn multiprocessing_context',
        batch_size=Positive,
        num_workers=NotNegative,
        num_batch_per_epoch=Positive,
        prefetch_factor=Positive,
        timeout=Factor,
        pin_memory_device=str,
        persistent_workers=Flag,
        pin_memory=Flag,
        drop_last=Flag,
        in_order=Flag,
    ),
    'filter_cfg': keys(Closed, '', filter_empty_gt=Flag, min_size=Factor, bbox_min_size=Factor),
    'data_prefix': keys(Open, 'img img_path seg seg_map_path anno sub_data_root'),
    'metainfo': keys(Open, 'classes palette base_classes novel_classes'),
    'pad_val': keys(Closed, 'img seg masks'),
    'clip_grad': CLIP_GRAD,
    'custom_keys.*': keys(Closed, '', lr_mult=Factor, decay_mult=Factor),
    # Open, since constructors of optimizers have keys of their own.
    'paramwise_cfg': keys(
        Open,
        'decay_type no_decay',
        custom_keys=dict,
        lr_mult=dict,
        bias_lr_mult=Factor,
        bias_decay_mult=Factor,
        norm_decay_mult=Factor,
        dwconv_decay_mult=Factor,
        flat_decay_mult=Factor,
        dcn_offset_lr_mult=Factor,
        decay_rate=Factor,
        num_layers=Positive,
        bypass_duplicate=Flag,
    ),
}
MODEL_TRAINING = keys(
    Closed,
    'rpn rpn_proposal rcnn assigner sampler initial_epoch initial_assigner reg_assigner '
    'cls_assigner ga_assigner ga_sampler center_ratio ignore_ratio init refine isr carl '
    'gaussian_iou neg_pos_ratio smoothl1_beta use_giou use_focal alpha beta gamma',
    allowed_border=Number,
    pos_weight=Number,
    debug=Flag,
    **SAMPLED_POINTS,
)
MODEL_TESTING = keys(
    Closed,
    'rpn rcnn nms nms_cfg conf_thr iou_thr top_k topk local_maximum_kernel corner_topk '
    'distance_threshold mask_thr mask_thr_binary filter_thr kernel sigma panoptic max_text_len '
    'crop_size stride',
    nms_pre=StrictInt,
    min_bbox_size=Number,
    score_thr=Fraction,
    max_per_img=StrictInt,
    chunked_size=StrictInt,
    multi_label=Flag,
    with_nms=Flag,
    score_voting=Flag,
    # MaskFormer
    panoptic_on=Flag,
    semantic_on=Flag,
    instance_on=Flag,
    filter_low_score=Flag,
    max_per_image=Positive,
    object_mask_thr=Fraction,
    mode=Literal['whole', 'slide'],  # MMSegmentation
)
PROPOSALS = keys(
    Closed,
    'nms nms_thr',
    nms_pre=StrictInt,
    nms_post=StrictInt,
    max_per_img=StrictInt,
    max_num=StrictInt,
    min_bbox_size=Number,
    nms_across_levels=Flag,
)
ASSIGNMENT = keys(
    Closed,
    'assigner sampler ga_assigner ga_sampler center_ratio ignore_ratio',
    allowed_border=Number,
    pos_weight=Number,
    debug=Flag,
)
ATTENTION = keys(
    Open,
    'dropout_layer norm_cfg init_cfg value_proj_ratio',
    embed_dims=Positive,
    num_heads=Positive,
    num_levels=Positive,
    num_points=Positive,
    im2col_step=Positive,
    attn_drop=Fraction,
    proj_drop=Fraction,
    dropout=Fraction,
    batch_first=Flag,
    cross_attn=Flag,
    qkv_bias=Flag,
)
TRANSFORMER = keys(
    Open,
    'layer_cfg text_layer_cfg fusion_layer_cfg post_norm_cfg init_cfg query_dim query_scale_type '
    'with_modulated_hw_attn',
    num_layers=Positive,
    num_cp=StrictInt,
    return_intermediate=Flag,
)
LAYER = keys(Open, 'self_attn_cfg cross_attn_cfg cross_attn_text_cfg ffn_cfg norm_cfg init_cfg')
PRIME_SAMPLE = keys(Closed, '', k=Number, bias=Number)
MODEL = {
    'model.train_cfg': MODEL_TRAINING,
    'detector.train_cfg': MODEL_TRAINING,
    '*_head.train_cfg': MODEL_TRAINING,
    'model.test_cfg': MODEL_TESTING,
    'detector.test_cfg': MODEL_TESTING,
    '*_head.test_cfg': MODEL_TESTING,
    'train_cfg.rpn': ASSIGNMENT,
    'train_cfg.init': ASSIGNMENT,
    'train_cfg.refine': ASSIGNMENT,
    'train_cfg.rpn_proposal': PROPOSALS,
    'test_cfg.rpn': PROPOSALS,
    'train_cfg.rcnn': keys(
        Closed,
        'assigner sampler mask_size mask_thr_binary isr carl dynamic_rcnn',
        pos_weight=Number,
        debug=Flag,
        pos_radius=Positive,
        max_num_grid=Positive,
        **SAMPLED_POINTS,
    ),
    'test_cfg.rcnn': keys(
        Closed,
        'nms',
        score_thr=Fraction,
        max_per_img=StrictInt,
        mask_thr_binary=Number,
        min_bbox_size=Number,
        subdivision_steps=Positive,
        subdivision_num_points=Positive,
        scale_factor=Number,
    ),
    'rcnn.dynamic_rcnn': keys(
        Closed, 'iou_topk beta_topk update_iter_interval initial_iou initial_beta'
    ),
    'isr': PRIME_SAMPLE,
    'carl': PRIME_SAMPLE,
    'test_cfg.panoptic': keys(Closed, '', mask_overlap=Fraction, stuff_area_limit=NotNegative),
    'tta_cfg': keys(Open, 'nms', max_per_img=StrictInt),
    'nms': SUPPRESSION,
    'dqs_cfg': SUPPRESSION,
    'roi_layer': ROI_LAYER,
    'backbone.arch': keys(Open, 'embed_dims depths num_heads version'),
    'plugins': keys(Closed, 'cfg stages position'),
    'upsample_cfg': UPSAMPLING,
    # DETR and its kin, Mask2Former
    'encoder': TRANSFORMER,
    'decoder': TRANSFORMER,
    'transformer_decoder': TRANSFORMER,
    'layer_cfg': LAYER,
    'text_layer_cfg': LAYER,
    'self_attn_cfg': ATTENTION,
    'cross_attn_cfg': ATTENTION,
    'cross_attn_text_cfg': ATTENTION,
    'ffn_cfg': keys(
        Open,
        'act_cfg dropout_layer init_cfg layer_scale_init_value',
        embed_dims=Positive,
        feedforward_channels=Positive,
        num_fcs=Positive,
        ffn_drop=Fraction,
        add_identity=Flag,
    ),
    'positional_encoding': keys(
        Open,
        'temperature scale eps offset row_num_embed col_num_embed num_embed init_cfg',
        num_feats=Positive,
        normalize=Flag,
    ),
}
# Places are the ends of a dict's path without the numbers in lists; `^` is the top of the config,
# `*` stands for any letters. The first that fits counts.
BY_PLACE = {tuple(place.split('.')): model for place, model in {**RUN, **MODEL}.items()}
