"""What the configs of Mask2Former say; that each trains and finds is in test_all_configs."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import swin_ext.registration  # noqa: F401
from authors_mask2former import AuthorsMask2Former
from swin_ext.config import finalise_config
from swin_ext.config.errors import ConfigError
from swin_ext.engine import SwinExtRunner
from swin_ext.models.swin import SwinBackbone
from toy_cmr import ToyCMR

CONFIGS = Path(__file__).parents[2] / 'configs/mask2former'
UPSTREAM = Path(mmdet.__file__).parent / '.mim/configs/mask2former'
ARCH = dict(_delete_=True, embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def small(name: str, **changes) -> Config:
    """A config with a model for 32-pixel images: 32 channels in the heads, 8 queries."""
    cfg = Config.fromfile(CONFIGS / name)
    head = 'model.panoptic_head'
    widths = dict(embed_dims=32, num_heads=4)
    cfg.merge_from_dict({'model.backbone': dict(arch=ARCH)})
    cfg.merge_from_dict(
        {
            f'{head}.in_channels': [16, 32, 64, 128],
            f'{head}.feat_channels': 32,
            f'{head}.out_channels': 32,
            f'{head}.num_queries': 8,
            f'{head}.positional_encoding.num_feats': 16,
            f'{head}.pixel_decoder.positional_encoding.num_feats': 16,
            f'{head}.pixel_decoder.encoder.num_layers': 1,
            f'{head}.pixel_decoder.encoder.layer_cfg.self_attn_cfg': widths,
            f'{head}.pixel_decoder.encoder.layer_cfg.ffn_cfg': dict(
                embed_dims=32, feedforward_channels=48
            ),
            f'{head}.transformer_decoder.num_layers': 2,
            f'{head}.transformer_decoder.layer_cfg.self_attn_cfg': widths,
            f'{head}.transformer_decoder.layer_cfg.cross_attn_cfg': widths,
            f'{head}.transformer_decoder.layer_cfg.ffn_cfg': dict(
                embed_dims=32, feedforward_channels=40
            ),
            'model.train_cfg.num_points': 64,
            **changes,
        }
    )
    return cfg


def test_one_that_counts_iterations_takes_no_epochs():
    cfg = Config.fromfile(CONFIGS / 'mask2former_swin-t_cmr.py')
    cfg.merge_from_dict(dict(max_epochs=12))
    message = 'max_epochs: ResumableIterTrainLoop of train_cfg counts iterations.*Set max_iters'
    with pytest.raises(ConfigError, match=f'(?s){message}'):
        finalise_config(cfg)


def shapes(model: dict) -> dict[str, tuple]:
    init_default_scope('mmdet')
    state_dict = MODELS.build(model).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state_dict.items()}


@pytest.mark.parametrize(
    'ours, theirs',
    [
        ('swin-t', 'swin-t-p4-w7-224_8xb2-lsj-50e_coco'),
        ('swin-s', 'swin-s-p4-w7-224_8xb2-lsj-50e_coco'),
        ('r50', 'r50_8xb2-lsj-50e_coco'),
        ('r101', 'r101_8xb2-lsj-50e_coco'),
    ],
)
def test_weights_of_mmdet_fit_by_name_and_shape(ours, theirs):
    cfg = Config.fromfile(CONFIGS / f'mask2former_{ours}_cmr.py')
    upstream = Config.fromfile(UPSTREAM / f'mask2former_{theirs}.py')
    assert f'/mask2former_{theirs}_20' in cfg.load_from
    cfg.num_classes = 80
    assert shapes(finalise_config(cfg).model) == shapes(upstream.model)
    assert cfg.optim_wrapper.clip_grad.max_norm == upstream.optim_wrapper.clip_grad.max_norm
    for key in ('type', 'lr', 'weight_decay', 'betas'):
        optimizer = upstream.optim_wrapper.optimizer
        assert cfg.optim_wrapper.optimizer[key] == optimizer[key]


class Rates(Hook):
    """The learning rates of each iteration."""

    def __init__(self):
        self.found = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.found.append([group['lr'] for group in runner.optim_wrapper.param_groups])


def test_fine_tuning_from_a_file_of_the_authors(tmp_path):
    """A published file: pickled, arrays of NumPy, under detectron2's names, of other classes."""
    toy = ToyCMR(tmp_path / 'toy', num_images=2)
    torch.manual_seed(0)
    authors = AuthorsMask2Former((16, 32, 64, 128), 32, layers=(1, 2), classes=80, queries=8)
    arch = {key: value for key, value in ARCH.items() if key != '_delete_'}
    weights = {f'backbone.{k}': v for k, v in SwinBackbone(arch=arch).state_dict().items()}
    weights.update(authors.state_dict())
    arrays = {key: tensor.numpy() for key, tensor in weights.items()}
    file = tmp_path / 'model_final.pkl'
    file.write_bytes(pickle.dumps({'model': arrays, '__author__': 'Bowen Cheng et al.'}))
    cfg = small(
        'mask2former_swin-b_cmr.py',
        **{
            'model.backbone.window_size': 7,
            'load_from': str(file),
            'data_root': str(toy.root),
            'image_scale': (64, 48),
            'max_iters': 4,
            'work_dir': str(tmp_path / 'run'),
            'experiment_name': f'authors_{os.getpid()}',
            'visualizer.name': f'authors_{os.getpid()}',
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'optim_wrapper.dtype': 'bfloat16',
        },
    )
    cfg.launcher = 'none'
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if 'Checkpoint' in hook.type][:1]
    for key in ('best', 'default_hooks'):
        cfg.pop(key, None)
    runner = SwinExtRunner.from_cfg(cfg)
    rates = Rates()
    runner.register_hook(rates)
    runner.train()

    log = next((tmp_path / 'run').glob('*/*.log')).read_text()
    (report,) = [line for line in log.split('\n') if 'Load checkpoint from' in line]
    # The scores of 80 classes are of no use for 3.
    counts = r'(\d+) of the (\d+) tensors of the model loaded; 2 re-initialised .*cls_embed.weight'
    loaded, total = map(int, re.search(counts, report).groups())
    assert loaded == total - 2 > 100
    assert '0 missing in the file' in report and '0 in the file alone' in report
    assert "Names of Mask2Former's authors became those of mmdet" in log
    expected = authors.sem_seg_head.predictor.query_feat.weight
    trained = runner.model.panoptic_head.query_feat.weight
    assert 0 < (trained - expected).abs().max() < 1e-3
    # A warm-up of 100 iterations, cut at 60 % of 4, then a tenth; the backbone at a tenth of it.
    head = [0.001, 0.5005, 0.1, 0.1]
    highest, lowest = ([f(rate) for rate in rates.found] for f in (max, min))
    assert highest == pytest.approx([1e-4 * factor for factor in head])
    assert lowest == pytest.approx([1e-5 * factor for factor in head])


@pytest.mark.parametrize('dtype', [None, torch.bfloat16, torch.float16])
def test_losses_are_in_float32_in_mixed_precision(dtype):
    """mmdet's divides by a number of points, infinite in float16 for 6 objects and more."""
    if dtype is torch.float16 and torch.__version__ < '2.2':
        pytest.skip('PyTorch 2.1 has no float16 on CPUs')
    init_default_scope('mmdet')
    cfg = finalise_config(
        small('mask2former_swin-t_cmr.py', **{'model.train_cfg.num_points': 12544})
    )
    torch.manual_seed(0)
    ours = MODELS.build(cfg.model).panoptic_head
    cfg.model.panoptic_head.update(type='mmdet.Mask2FormerHead')
    cfg.model.panoptic_head.pixel_decoder.update(type='mmdet.MSDeformAttnPixelDecoder')
    theirs = MODELS.build(cfg.model).panoptic_head
    theirs.load_state_dict(ours.state_dict())
    maps = [torch.randn(2, 16 * 2**i, 32 // 2**i, 32 // 2**i) for i in range(4)]
    objects = [
        InstanceData(labels=torch.tensor([0, 1, 2]), masks=(torch.rand(3, 64, 64) > 0.5).long())
        for _ in maps[0]
    ]

    def losses(head, dtype):
        torch.manual_seed(1)
        with torch.autocast('cpu', dtype, enabled=dtype is not None):
            scores, masks = head(maps, [])
            found = head.loss_by_feat(scores, masks, objects, [{}, {}])
        assert all(loss.dtype == torch.float32 for loss in found.values()) or head is theirs
        return found['loss_mask'].detach()

    exact = losses(theirs, None)
    assert losses(ours, dtype) == pytest.approx(exact, rel=2e-2 if dtype else 1e-6)
    if dtype is torch.float16:
        assert losses(theirs, dtype) == 0


def test_the_small_one_has_the_recipe_of_the_small_mask_rcnn():
    cfg = Config.fromfile(CONFIGS / 'mask2former_swin-nano_cmr.py')
    other = Config.fromfile(CONFIGS.parent / 'mask_rcnn/mask_rcnn_swin-nano_scratch-cmr.py')
    loaders = [
        f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('dataloader', 'cfg')
    ]
    keys = ('image_scale', 'max_epochs', 'param_scheduler', 'load_from', 'test_evaluator')
    for key in (*loaders, *keys):
        assert cfg[key] == other[key], key
    assert cfg.model.backbone == other.model.backbone
    for key in ('type', 'constructor', 'optimizer', 'clip_grad'):
        assert cfg.optim_wrapper[key] == other.optim_wrapper[key]
    cfg.num_classes = 1
    finalise_config(cfg)  # refuses more instances than there are queries x classes


@pytest.mark.parametrize('labels', [[0, 0], [1, 0]])
def test_slices_without_a_label_train_the_small_one(labels):
    """As `filter_empty_gt=False` gives: their queries learn that there is nothing, not a mask."""
    init_default_scope('mmdet')
    cfg = finalise_config(Config.fromfile(CONFIGS / 'mask2former_swin-nano_cmr.py'))
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    samples = [
        DetDataSample(
            metainfo=dict(img_shape=(64, 64), batch_input_shape=(64, 64), pad_shape=(64, 64)),
            gt_instances=InstanceData(
                masks=BitmapMasks(np.eye(64, dtype=np.uint8)[None].repeat(number, 0), 64, 64),
                labels=torch.zeros(number, dtype=torch.long),
                bboxes=torch.tensor([[0.0, 0, 64, 64]]).repeat(number, 1),
            ),
        )
        for number in labels
    ]
    losses = model(torch.randn(2, 3, 64, 64), samples, 'loss')
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert losses['loss_cls'] > 0 and (losses['loss_mask'] > 0) == any(labels)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.panoptic_head.cls_embed.weight.grad.any()
