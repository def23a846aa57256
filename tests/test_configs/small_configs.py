"""Shipped configs scaled down to seconds on a CPU, and toy data that they can be trained on."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import Hook

import swin_ext.registration  # noqa: F401
from swin_ext.engine import SwinExtRunner
from toy_cmr import ToyCMR

_count = itertools.count()


class AtTheStart(Hook):
    """Keeps the weights that a training begins with."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 0:
            self.weights = {k: v.clone() for k, v in runner.model.state_dict().items()}


class QuickRunner(SwinExtRunner):
    """Without what takes long: what a runner says of the environment, and a config as text."""

    def _log_env(self, *_):
        pass

    def dump_config(self):
        pass


def small_roi_head(**more) -> dict:
    extractor = dict(out_channels=16, roi_layer=dict(sampling_ratio=1))
    return {
        'neck.out_channels': 16,
        'rpn_head': dict(in_channels=16, feat_channels=16),
        'rpn_head.anchor_generator.scales': [2],
        'roi_head.bbox_roi_extractor': extractor,
        'roi_head.mask_roi_extractor': extractor,
        **more,
        'roi_head.mask_head': dict(in_channels=16, conv_out_channels=16, num_convs=1),
        'train_cfg.rpn_proposal': dict(nms_pre=50, max_per_img=20),
        'test_cfg.rpn': dict(nms_pre=50, max_per_img=20),
        'test_cfg.rcnn.score_thr': 0.0,
    }


BOX_HEAD = dict(in_channels=16, fc_out_channels=32)
ATTENTION = dict(embed_dims=16, num_heads=2)
SMALL = {
    'MaskRCNN': small_roi_head(**{'roi_head.bbox_head': BOX_HEAD}),
    'CascadeRCNN': small_roi_head(
        **{
            f'roi_head.bbox_head.{stage}': dict(BOX_HEAD, conv_out_channels=16)
            for stage in range(3)
        }
    ),
    'Mask2Former': {
        'panoptic_head': dict(feat_channels=16, out_channels=16, num_queries=40),
        'panoptic_head.positional_encoding.num_feats': 8,
        'panoptic_head.pixel_decoder.norm_cfg.num_groups': 4,
        'panoptic_head.pixel_decoder.positional_encoding.num_feats': 8,
        'panoptic_head.pixel_decoder.encoder.num_layers': 1,
        'panoptic_head.pixel_decoder.encoder.layer_cfg.self_attn_cfg': ATTENTION,
        'panoptic_head.pixel_decoder.encoder.layer_cfg.ffn_cfg': dict(
            embed_dims=16, feedforward_channels=16
        ),
        'panoptic_head.transformer_decoder.num_layers': 1,
        'panoptic_head.transformer_decoder.layer_cfg.self_attn_cfg': ATTENTION,
        'panoptic_head.transformer_decoder.layer_cfg.cross_attn_cfg': ATTENTION,
        'panoptic_head.transformer_decoder.layer_cfg.ffn_cfg': dict(
            embed_dims=16, feedforward_channels=16
        ),
        'train_cfg.num_points': 64,
    },
    'MmsegPixelClassifier': {
        'decode_head.channels': 8,
        'auxiliary_head': dict(in_channels=32, channels=8),
    },
}
HEADS_OF_MAPS = {'Mask2Former': 'panoptic_head', 'MmsegPixelClassifier': 'decode_head'}


def small_backbone(backbone: dict) -> tuple[dict, list[int]]:
    """Overrides that make a backbone small, and the channels of its maps."""
    if backbone['type'] == 'ResNet':
        factor = 4 if backbone['depth'] >= 50 else 1  # of a bottleneck's last layer
        return dict(base_channels=4, init_cfg=None), [4 * factor * 2**stage for stage in range(4)]
    version = 2 if 'v2' in str(backbone['arch']) else 1
    arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), version=version)
    arch['_delete_'] = True
    return dict(arch=arch, init_cfg=None), [8, 16, 32, 64]


def small_images(node: Any) -> Iterator[tuple[dict, str, Any]]:
    """Sizes that transforms have, with small ones for them."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == 'crop_size':  # from, to
                yield node, key, (32, 48)
            elif key == 'scale' and isinstance(value[0], int):
                yield node, key, (64, 48)
            elif key in ('scale', 'scales'):
                yield node, key, [(64, 48), (72, 54)]
            else:
                yield from small_images(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from small_images(value)


def scaled_down(cfg: Config, data: dict[str, Path], work_dir: Path) -> Config:
    """By overrides alone: what a user changes for a smoke test on a CPU."""
    backbone, channels = small_backbone(cfg.model.backbone)
    head = HEADS_OF_MAPS.get(cfg.model.type, 'neck')
    dataset = dict(cfg.train_dataloader.dataset)
    while 'datasets' in dataset or 'dataset' in dataset:
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    first_class = (dataset.get('metainfo') or {}).get('classes', [dataset['type']])[0]
    loaders = {
        f'{split}_dataloader.{key}': value
        for split in ('train', 'val', 'test')
        for key, value in dict(batch_size=2, num_workers=0, persistent_workers=False).items()
    }
    changes = {
        **{f'model.{key}': value for key, value in SMALL[cfg.model.type].items()},
        **{f'model.backbone.{key}': value for key, value in backbone.items()},
        f'model.{head}.in_channels': channels,
        **loaders,
        'data_root': str(data.get(first_class, data['CMRDataset'])),
        'image_scale': (64, 48),
        'load_from': None,
        'custom_hooks': [dict(type='ClassCheckHook'), dict(type='AdaptCheckpointHook')],
        'default_hooks.checkpoint': None,
        'visualizer.vis_backends': None,
        'train_cfg.val_begin': 1,
        'log_level': 'ERROR',
        'work_dir': str(work_dir),
        'launcher': 'none',
        'experiment_name': f'all_{os.getpid()}_{next(_count)}',
    }
    changes.update({'max_epochs': 1} if 'max_epochs' in cfg.train_cfg else {'max_iters': 1})
    if cfg.model.type == 'Mask2Former':
        changes['model.test_cfg.max_per_image'] = 40
    cfg.merge_from_dict(changes)
    cfg.pop('best', None)
    for node in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for transform, key, value in list(small_images(cfg[node])):
            transform[key] = value
    cfg.visualizer.name = cfg.experiment_name
    return cfg


def toy_data(root: Path) -> dict[str, Path]:
    """Folders of toy data by the first class, or the type, of the data sets that they are for."""
    cmr = ToyCMR(root / 'cmr', num_images=2)
    for folder in ('sunnybrook_png', 'autofd'):  # of the model in the box
        (cmr.root / folder).mkdir()
        for name in ('train.json', 'val.json', 'images'):
            (cmr.root / folder / name).symlink_to(cmr.root / name)
    plastics = ToyCMR(root / 'plastics', num_images=2)
    coco = ToyCMR(root / 'coco', num_images=2)
    for toy, names in ((plastics, ('Fiber', 'Fragment', 'Film')), (coco, coco_names())):
        ids = [category['id'] for category in toy.content['categories']]
        toy.content['categories'] = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
        for annotation in toy.content['annotations']:
            annotation['category_id'] = 1 + ids.index(annotation['category_id'])
        toy.save()
        for image in toy.content['images']:  # in colour
            path = str(toy.root / 'images' / image['file_name'])
            grey = cv2.imread(path)
            cv2.imwrite(path, grey // np.array([1, 2, 3], np.uint8))
    (coco.root / 'annotations').mkdir()
    for split in ('train', 'val'):
        (coco.root / f'{split}2017').symlink_to(coco.root / 'images')
        path = coco.root / f'annotations/instances_{split}2017.json'
        path.write_text(json.dumps(coco.content))
    return {'CMRDataset': cmr.root, 'Fiber': plastics.root, 'CocoFileDataset': coco.root}


def coco_names() -> tuple[str, ...]:
    return CocoDataset.METAINFO['classes']
