"""Keys of the dicts that a config gives no `type`, by where they stand.

The classes that read them take whatever they are given, and leave a misspelt key unread. Those of
models are what MMDetection 3.3 and MMSegmentation 1.2 read (`cfg.get` and `cfg.` in their heads and
detectors), for all families of models together.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[StrictInt, Field(gt=0)]
NotNegative = Annotated[StrictInt, Field(ge=0)]
Factor = Annotated[float, Field(ge=0)]


class Closed(BaseModel):
    """Any other key is refused."""

    model_config = ConfigDict(extra='forbid', arbitrary_types_allowed=True)


class Open(BaseModel):
    """Other keys are the user's own, unless one is a slip of a key below."""

    model_config = ConfigDict(extra='allow', arbitrary_types_allowed=True)


# The run


class Environment(Closed):
    cudnn_benchmark: StrictBool = False
    mp_cfg: Optional[dict] = None
    dist_cfg: Optional[dict] = None
    resource_limit: Positive = 4096


class Multiprocessing(Closed):
    mp_start_method: Optional[Literal['fork', 'spawn', 'forkserver']] = None
    opencv_num_threads: Optional[NotNegative] = None


class Distributed(Open):
    backend: str = 'nccl'
    init_backend: str = 'torch'
    timeout: Any = None


class Randomness(Closed):
    seed: Optional[StrictInt] = None
    diff_rank_seed: StrictBool = False
    deterministic: StrictBool = False


class AutoScaleLR(Closed):
    enable: StrictBool = False
    base_batch_size: Optional[Positive] = None


class CustomImports(Closed):
    imports: Any
    allow_failed_imports: StrictBool = False


class DefaultHooks(Open):
    """Each is a hook by a name of the user's; these are MMEngine's and MMDetection's."""

    runtime_info: Any = None
    timer: Any = None
    sampler_seed: Any = None
    logger: Any = None
    param_scheduler: Any = None
    checkpoint: Any = None
    visualization: Any = None
    early_stopping: Any = None
    ema: Any = None


# Data


class Dataloader(Closed):
    """Of `torch.utils.data.DataLoader`, and what `Runner.build_dataloader` takes out."""

    dataset: Any
    sampler: Any = None
    batch_sampler: Any = None
    batch_size: Optional[Positive] = 1
    num_workers: NotNegative = 0
    persistent_workers: StrictBool = False
    prefetch_factor: Optional[Positive] = None
    pin_memory: StrictBool = False
    pin_memory_device: str = ''
    drop_last: StrictBool = False
    timeout: float = 0
    collate_fn: Any = None
    worker_init_fn: Any = None
    multiprocessing_context: Any = None
    num_batch_per_epoch: Optional[Positive] = None
    in_order: StrictBool = True


class FilterCfg(Closed):
    filter_empty_gt: StrictBool = False
    min_size: Factor = 0
    bbox_min_size: Optional[Factor] = None


class DataPrefix(Open):
    img: Any = None
    img_path: Any = None
    seg: Any = None
    seg_map_path: Any = None
    anno: Any = None
    sub_data_root: Any = None


class MetaInfo(Open):
    classes: Any = None
    palette: Any = None
    base_classes: Any = None
    novel_classes: Any = None


class PadValue(Closed):
    img: Any = 0
    seg: Any = 255
    masks: Any = 0


# Optimisation


class ClipGrad(Closed):
    """Of `torch.nn.utils.clip_grad_norm_` and `clip_grad_value_`."""

    type: Literal['norm', 'value'] = 'norm'
    max_norm: Optional[Factor] = None
    norm_type: Any = 2
    error_if_nonfinite: StrictBool = False
    foreach: Optional[StrictBool] = None
    clip_value: Optional[Factor] = None


class Paramwise(Open):
    """Open: constructors of optimizers have keys of their own."""

    custom_keys: Optional[dict] = None
    bias_lr_mult: Optional[float] = None
    bias_decay_mult: Optional[float] = None
    norm_decay_mult: Optional[float] = None
    dwconv_decay_mult: Optional[float] = None
    flat_decay_mult: Optional[float] = None
    dcn_offset_lr_mult: Optional[float] = None
    bypass_duplicate: StrictBool = False
    decay_rate: Optional[float] = None
    decay_type: Optional[str] = None
    num_layers: Optional[Positive] = None
    lr_mult: Optional[dict] = None
    no_decay: Any = None


class CustomKey(Closed):
    lr_mult: Factor = 1.0
    decay_mult: Factor = 1.0


# Models


class Suppression(Closed):
    """Of `mmcv.ops.batched_nms` and of what it calls."""

    type: str = 'nms'
    iou_threshold: Fraction = 0.5
    iou_thr: Optional[Fraction] = None
    class_agnostic: StrictBool = False
    split_thr: Positive = 10000
    max_num: StrictInt = -1
    offset: StrictInt = 0
    score_threshold: Factor = 0
    sigma: Factor = 0.5
    min_score: Factor = 1e-3
    method: str = 'linear'


class Proposals(Closed):
    nms_pre: StrictInt = -1
    nms_post: StrictInt = -1
    max_per_img: StrictInt = -1
    max_num: StrictInt = -1
    nms: Any = None
    nms_thr: Optional[Fraction] = None
    nms_across_levels: StrictBool = False
    min_bbox_size: Union[StrictInt, float] = 0


class RPNTraining(Closed):
    assigner: Any = None
    sampler: Any = None
    allowed_border: Union[StrictInt, float] = -1
    pos_weight: float = -1
    debug: StrictBool = False
    ga_assigner: Any = None
    ga_sampler: Any = None
    center_ratio: Optional[float] = None
    ignore_ratio: Optional[float] = None


class RoITraining(Closed):
    assigner: Any = None
    sampler: Any = None
    mask_size: Any = 28
    pos_weight: float = -1
    debug: StrictBool = False
    mask_thr_binary: Optional[float] = None
    isr: Any = None
    carl: Any = None
    dynamic_rcnn: Any = None
    pos_radius: Optional[Positive] = None
    max_num_grid: Optional[Positive] = None
    num_points: Optional[Positive] = None
    oversample_ratio: Optional[float] = None
    importance_sample_ratio: Optional[Fraction] = None


class RoITesting(Closed):
    score_thr: Fraction = 0.05
    nms: Any = None
    max_per_img: StrictInt = 100
    mask_thr_binary: float = 0.5
    min_bbox_size: Union[StrictInt, float] = 0
    subdivision_steps: Optional[Positive] = None
    subdivision_num_points: Optional[Positive] = None
    scale_factor: Optional[float] = None


class DynamicRCNN(Closed):
    iou_topk: Any = None
    beta_topk: Any = None
    update_iter_interval: Any = None
    initial_iou: Any = None
    initial_beta: Any = None


class PrimeSample(Closed):
    k: float = 1
    bias: float = 0


class ModelTraining(Closed):
    rpn: Any = None
    rpn_proposal: Any = None
    rcnn: Any = None
    assigner: Any = None
    sampler: Any = None
    allowed_border: Union[StrictInt, float] = -1
    pos_weight: float = -1
    debug: StrictBool = False
    num_points: Optional[Positive] = None
    oversample_ratio: Optional[float] = None
    importance_sample_ratio: Optional[Fraction] = None
    gaussian_iou: Any = None
    neg_pos_ratio: Any = None
    smoothl1_beta: Any = None
    use_giou: Any = None
    use_focal: Any = None
    initial_epoch: Any = None
    initial_assigner: Any = None
    reg_assigner: Any = None
    cls_assigner: Any = None
    ga_assigner: Any = None
    ga_sampler: Any = None
    center_ratio: Any = None
    ignore_ratio: Any = None
    init: Any = None
    refine: Any = None
    isr: Any = None
    carl: Any = None
    alpha: Any = None
    beta: Any = None
    gamma: Any = None
    use_atss: Any = None
    score_threshold: Any = None


class ModelTesting(Closed):
    rpn: Any = None
    rcnn: Any = None
    nms_pre: StrictInt = 1000
    min_bbox_size: Union[StrictInt, float] = 0
    score_thr: Fraction = 0.05
    nms: Any = None
    max_per_img: StrictInt = 100
    multi_label: StrictBool = True
    chunked_size: StrictInt = -1
    with_nms: StrictBool = True
    yolox_style: StrictBool = False
    score_voting: StrictBool = False
    conf_thr: Any = None
    iou_thr: Any = None
    top_k: Any = None
    topk: Any = None
    local_maximum_kernel: Any = None
    corner_topk: Any = None
    distance_threshold: Any = None
    nms_cfg: Any = None
    # single-stage instance segmentation
    mask_thr: Any = None
    mask_thr_binary: Any = None
    filter_thr: Any = None
    kernel: Any = None
    sigma: Any = None
    # MaskFormer, Mask2Former and Panoptic FPN
    panoptic: Any = None
    panoptic_on: StrictBool = True
    semantic_on: StrictBool = False
    instance_on: StrictBool = False
    max_per_image: Positive = 100
    object_mask_thr: Fraction = 0.8
    filter_low_score: StrictBool = False
    # MMSegmentation
    mode: Optional[Literal['whole', 'slide']] = None
    crop_size: Any = None
    stride: Any = None
    # trackers and text
    max_text_len: Any = None


class PanopticFusion(Closed):
    mask_overlap: Fraction = 0.5
    stuff_area_limit: NotNegative = 4096


class TestTimeAugmentation(Open):
    nms: Any = None
    max_per_img: StrictInt = 100


class Transformer(Open):
    """An encoder or decoder of DETR and its kin."""

    num_layers: Optional[Positive] = None
    layer_cfg: Any = None
    num_cp: Optional[StrictInt] = None
    return_intermediate: Optional[StrictBool] = None
    post_norm_cfg: Any = None
    init_cfg: Any = None
    query_dim: Any = None
    query_scale_type: Any = None
    with_modulated_hw_attn: Any = None
    text_layer_cfg: Any = None
    fusion_layer_cfg: Any = None


class TransformerLayer(Open):
    self_attn_cfg: Any = None
    cross_attn_cfg: Any = None
    cross_attn_text_cfg: Any = None
    ffn_cfg: Any = None
    norm_cfg: Any = None
    init_cfg: Any = None


class Attention(Open):
    embed_dims: Optional[Positive] = None
    num_heads: Optional[Positive] = None
    num_levels: Optional[Positive] = None
    num_points: Optional[Positive] = None
    im2col_step: Optional[Positive] = None
    attn_drop: Optional[Fraction] = None
    proj_drop: Optional[Fraction] = None
    dropout: Optional[Fraction] = None
    dropout_layer: Any = None
    batch_first: Optional[StrictBool] = None
    cross_attn: Optional[StrictBool] = None
    qkv_bias: Optional[StrictBool] = None
    value_proj_ratio: Optional[float] = None
    norm_cfg: Any = None
    init_cfg: Any = None


class FeedForward(Open):
    embed_dims: Optional[Positive] = None
    feedforward_channels: Optional[Positive] = None
    num_fcs: Optional[Positive] = None
    act_cfg: Any = None
    ffn_drop: Optional[Fraction] = None
    dropout_layer: Any = None
    add_identity: Optional[StrictBool] = None
    init_cfg: Any = None
    layer_scale_init_value: Optional[float] = None


class PositionalEncoding(Open):
    num_feats: Optional[Positive] = None
    temperature: Any = None
    normalize: Optional[StrictBool] = None
    scale: Any = None
    eps: Any = None
    offset: Any = None
    row_num_embed: Any = None
    col_num_embed: Any = None
    num_embed: Any = None
    init_cfg: Any = None


class Upsampling(Open):
    type: Optional[str] = None
    mode: Optional[str] = None
    scale_factor: Any = None
    align_corners: Optional[StrictBool] = None
    upsample_kernel: Any = None
    up_kernel: Any = None
    up_group: Any = None
    encoder_kernel: Any = None
    encoder_dilation: Any = None
    compressed_channels: Any = None


class RoILayer(Open):
    """Of `RoIAlign` and `RoIPool` in `mmcv.ops`."""

    type: str
    output_size: Any = None
    spatial_scale: Optional[float] = None
    sampling_ratio: Optional[NotNegative] = None
    pool_mode: Optional[Literal['avg', 'max']] = None
    aligned: Optional[StrictBool] = None
    use_torchvision: Optional[StrictBool] = None


class Plugin(Closed):
    cfg: Any
    stages: Any = None
    position: Any = None


# The ends of a dict's path, without the numbers in lists, and `*` for any one name. The first that
# fits counts.
BY_PLACE: list[tuple[tuple[str, ...], type[BaseModel]]] = [
    (tuple(place.split('.')), model)
    for model, places in {
        Environment: '^.env_cfg',
        Multiprocessing: 'env_cfg.mp_cfg',
        Distributed: 'env_cfg.dist_cfg',
        Randomness: '^.randomness',
        AutoScaleLR: '^.auto_scale_lr',
        CustomImports: '^.custom_imports',
        DefaultHooks: '^.default_hooks',
        Dataloader: '^.train_dataloader ^.val_dataloader ^.test_dataloader',
        FilterCfg: 'filter_cfg',
        DataPrefix: 'data_prefix',
        MetaInfo: 'metainfo',
        PadValue: 'pad_val',
        ClipGrad: 'clip_grad',
        CustomKey: 'custom_keys.*',
        Paramwise: 'paramwise_cfg',
        PanopticFusion: 'test_cfg.panoptic',
        Suppression: 'nms',
        Proposals: 'test_cfg.rpn train_cfg.rpn_proposal',
        RPNTraining: 'train_cfg.rpn train_cfg.init train_cfg.refine',
        RoITraining: 'train_cfg.rcnn',
        RoITesting: 'test_cfg.rcnn',
        DynamicRCNN: 'rcnn.dynamic_rcnn',
        PrimeSample: 'isr carl',
        TestTimeAugmentation: 'tta_cfg',
        Transformer: 'encoder decoder transformer_decoder',
        TransformerLayer: 'layer_cfg text_layer_cfg',
        Attention: 'self_attn_cfg cross_attn_cfg cross_attn_text_cfg',
        FeedForward: 'ffn_cfg',
        PositionalEncoding: 'positional_encoding',
        Upsampling: 'upsample_cfg',
        RoILayer: 'roi_layer',
        Plugin: 'plugins',
        ModelTraining: 'model.train_cfg detector.train_cfg *_head.train_cfg',
        ModelTesting: 'model.test_cfg detector.test_cfg *_head.test_cfg',
    }.items()
    for place in places.split()
]
# Their `type` is no name of a registry.
TYPE_IS_A_KEY = (ClipGrad, Suppression, RoILayer)
