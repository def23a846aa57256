"""A training of seconds whose result is a model with all its parts.

Its weights are of a longer training, kept in a file: rounding differs between processors, and a
training makes other weights of it, with which a test holds or fails by chance. Make them anew,
where the architecture changes, by

    python tests/tiny_model.py
"""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

from toy_cmr import ToyCMR

CONFIGS = Path(__file__).parents[1] / 'configs'
NANO = CONFIGS / 'mask_rcnn_swin-nano_cmr.py'
WEIGHTS = Path(__file__).with_name('tiny_model.safetensors')
_count = itertools.count()


class TinyModel:
    """The nano model with fewer channels, trained on `ToyCMR`.

    Args:
        changes: Of the config, by dotted keys.

    Attributes:
        data: What it was trained on.
        cfg: Finalised, as the runner had it.
        path: The file for inference.
        best: The checkpoint that it was made of.
    """

    def __init__(self, root: Path, **changes):
        import swin_ext.registration  # noqa: F401

        self.root = root
        self.data = ToyCMR(root / 'data', num_images=8)
        self.cfg = tiny_config(self.data.root, changes)
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


def tiny_config(data_root: Path, changes: dict):
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
            # An epoch that leaves the weights as they are.
            'load_from': str(WEIGHTS),
            'max_epochs': 1,
            'optim_wrapper.optimizer.lr': 0.0,
            'image_scale': (96, 96),
            'train_cfg.val_begin': 2,
            'train_cfg.val_interval': 2,
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
            **changes,
        }
    )
    return finalise_config(cfg)


def main() -> None:
    """Train until the model is sure of what it finds: half-trained, rounding decides that."""
    from swin_ext.checkpoint.model_file import write_model

    last = dict.fromkeys(('train_cfg.val_begin', 'train_cfg.val_interval'), 120)
    longer = {'load_from': None, 'max_epochs': 60, 'optim_wrapper.optimizer.lr': 3e-3, **last}
    with tempfile.TemporaryDirectory() as folder:
        write_model(TinyModel(Path(folder), **longer).path, WEIGHTS)


if __name__ == '__main__':
    main()
