"""mmdet's instance segmentation models, shrunk, train and predict on these ops."""

from __future__ import annotations

from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine import Config
from mmengine.registry import DefaultScope

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
BACKBONE = dict(depth=18, base_channels=8, init_cfg=None)
BACKBONE_CHANNELS = [8, 16, 32, 64]


def two_stage_model(path: str) -> dict:
    model = Config.fromfile(CONFIGS / path).model
    model.backbone.update(BACKBONE)
    model.neck.update(in_channels=BACKBONE_CHANNELS, out_channels=16)
    model.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = model.roi_head
    roi_head.bbox_roi_extractor.out_channels = roi_head.mask_roi_extractor.out_channels = 16
    bbox_heads = (
        roi_head.bbox_head if isinstance(roi_head.bbox_head, list) else [roi_head.bbox_head]
    )
    for head in bbox_heads:
        head.update(in_channels=16, fc_out_channels=32, num_classes=3)
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=3)
    model.test_cfg.rpn.update(nms_pre=100, max_per_img=30)
    model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    return model


def mask2former() -> dict:
    model = Config.fromfile(CONFIGS / 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py').model
    model.data_preprocessor.pop('batch_augments')  # pads to 1024 x 1024
    model.backbone.update(BACKBONE)
    head = model.panoptic_head
    head.update(
        in_channels=BACKBONE_CHANNELS,
        feat_channels=32,
        out_channels=32,
        num_things_classes=3,
        num_queries=8,
    )
    head.loss_cls.class_weight = [1.0] * 3 + [0.1]
    head.pixel_decoder.num_outs = 3
    attention = dict(embed_dims=32, num_heads=4)
    for name, layers in (
        ('encoder', head.pixel_decoder.encoder),
        ('decoder', head.transformer_decoder),
    ):
        layers.num_layers = {'encoder': 1, 'decoder': 3}[name]
        layers.layer_cfg.self_attn_cfg.update(attention)
        layers.layer_cfg.ffn_cfg.update(embed_dims=32, feedforward_channels=32)
    head.transformer_decoder.layer_cfg.cross_attn_cfg.update(attention)
    head.pixel_decoder.positional_encoding.num_feats = head.positional_encoding.num_feats = 16
    model.panoptic_fusion_head.num_things_classes = 3
    model.train_cfg.num_points = 64
    model.test_cfg.max_per_image = 10
    return model


MODEL_CONFIGS = {
    'mask_rcnn': lambda: two_stage_model('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py'),
    'cascade_mask_rcnn': lambda: two_stage_model(
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'
    ),
    'mask2former': mask2former,
}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')


CUDA_AUTOCAST = [
    pytest.param(name, 'cuda', dtype, marks=CUDA)
    for name in MODEL_CONFIGS
    for dtype in (None, torch.float16, torch.bfloat16)
]


@pytest.mark.parametrize(
    'name, device, dtype',
    [
        *((name, 'cpu', None) for name in MODEL_CONFIGS),
        ('mask_rcnn', 'cpu', torch.bfloat16),
        *CUDA_AUTOCAST,
    ],
)
def test_train_and_predict(name, device, dtype):
    """dtype: that of autocast."""
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(MODEL_CONFIGS[name]()).to(device)
    model.init_weights()
    batch = demo_mm_inputs(
        2,
        [[3, 96, 80], [3, 64, 96]],
        num_items=[3, 2],
        num_classes=3,
        with_mask=True,
        use_box_type=True,
        device=device,
    )

    model.train()
    with torch.autocast(device, dtype, enabled=dtype is not None):
        losses = model(**model.data_preprocessor(batch, True), mode='loss')
        loss, _ = model.parse_losses(losses)
    assert loss.isfinite()
    loss.backward()
    gradients = {
        key: parameter.grad
        for key, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    assert all(grad is None or grad.isfinite().all() for grad in gradients.values())
    assert (
        sum(grad.abs().sum() for key, grad in gradients.items() if key.startswith('backbone.layer'))
        > 0
    )

    model.eval()
    with torch.no_grad(), torch.autocast(device, dtype, enabled=dtype is not None):
        samples = model(**model.data_preprocessor(batch, False), mode='predict')
    for sample, (height, width) in zip(samples, [(96, 80), (64, 96)]):
        instances = sample.pred_instances
        assert 0 < len(instances) <= 20
        assert instances.masks.shape == (len(instances), height, width)
        assert instances.bboxes.isfinite().all()
