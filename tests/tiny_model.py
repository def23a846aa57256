"""A training of seconds whose result is a model with all its parts."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from toy_cmr import ToyCMR

CONFIGS = Path(__file__).parents[1] / 'configs'
NANO = CONFIGS / 'mask_rcnn_swin-nano_cmr.py'
_count = itertools.count()


class TinyModel:
    """The nano model with fewer channels, after 120 iterations on `ToyCMR`.

    Attributes:
        data: What it was trained on.
        cfg: Finalised, as the runner had it.
        path: The file for inference.
        best: The checkpoint that it was made of.
    """

    def __init__(self, root: Path):
        import swin_ext.registration  # noqa: F401

        self.root = root
        self.data = ToyCMR(root / 'data', num_images=8)
        self.cfg = tiny_config(self.data.root)
        runner = self.runner('run')
        runner.train()
        (self.path,) = Path(runner.work_dir).glob('inference_*.pth')
        (self.best,) = Path(runner.work_dir).glob('best_*.pth')

    def runner(self, name: str, **changes):
        """A runner in a folder of its own, as mmdet's tools build it."""
        from mmengine.registry import RUNNERS

        cfg = self.cfg.copy()
        cfg.merge_from_dict(changes)
        cfg.work_dir = str(self.root / name)
        cfg.experiment_name = cfg.visualizer.name = f'tiny_{os.getpid()}_{next(_count)}'
        return RUNNERS.build(cfg)


def tiny_config(data_root: Path):
    from mmengine.config import Config

    from swin_ext.config import finalise_config

    cfg = Config.fromfile(NANO)
    plain = Config.fromfile(CONFIGS / '_base_/datasets/cmr_instance.py')
    cfg.merge_from_dict(
        {
            # Gamma, fields and turns would leave it unsure for longer.
            'train_dataloader.dataset.pipeline': plain.train_pipeline,
            'train_dataloader.dataset.filter_cfg.filter_empty_gt': True,
            'data_root': str(data_root),
            'load_from': None,
            'image_scale': (96, 96),
            # Until it is sure of what it finds: half-trained, rounding decides what it does.
            'max_epochs': 60,
            'train_cfg.val_begin': 120,
            'train_cfg.val_interval': 120,
            'val_dataloader.batch_size': 1,
            'test_dataloader.batch_size': 1,
            'randomness': dict(seed=0),
            'log_level': 'ERROR',
            'launcher': 'none',
            'custom_hooks': [
                dict(type='ClassCheckHook'),
                dict(type='AdaptCheckpointHook'),
                dict(type='BestCheckpointHook', metric='coco/segm_mAP'),
            ],
            'vis_backends': [dict(type='LocalVisBackend')],
            'visualizer.vis_backends': [dict(type='LocalVisBackend')],
            # Two stages, the second with plain and shifted windows; three maps, of which two pool.
            'model.backbone.arch': dict(embed_dims=16, depths=(1, 2), num_heads=(1, 2)),
            'model.backbone.out_indices': (0, 1),
            'model.neck': dict(in_channels=[16, 32], out_channels=16, num_outs=3),
            'model.rpn_head': dict(in_channels=16, feat_channels=16),
            'model.rpn_head.anchor_generator.strides': [4, 8, 16],
            'model.roi_head.bbox_roi_extractor.featmap_strides': [4, 8],
            'model.roi_head.mask_roi_extractor.featmap_strides': [4, 8],
            'model.roi_head.bbox_roi_extractor.out_channels': 16,
            'model.roi_head.bbox_head': dict(in_channels=16, fc_out_channels=32),
            'model.roi_head.mask_roi_extractor.out_channels': 16,
            'model.roi_head.mask_head': dict(in_channels=16, conv_out_channels=16),
            'optim_wrapper.optimizer.lr': 3e-3,
        }
    )
    return finalise_config(cfg)
