"""The small Mask R-CNN made smaller still, on slices drawn at random, in one process or several."""

from __future__ import annotations

import copy
import functools
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.structures import InstanceData
from torch.utils.data import Dataset

from swin_ext.engine import SwinExtRunner

NANO = Path(__file__).parents[1] / 'configs/mask_rcnn_swin-nano_cmr.py'
SIZE = 64
CHANGES = {
    'backbone.arch': dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    'backbone.frozen_stages': -1,
    'neck.in_channels': [8, 16, 32, 64],
    'neck.out_channels': 16,
    'rpn_head.in_channels': 16,
    'rpn_head.feat_channels': 16,
    'rpn_head.anchor_generator.scales': [4],
    'roi_head.bbox_roi_extractor.out_channels': 16,
    'roi_head.bbox_head.in_channels': 16,
    'roi_head.bbox_head.fc_out_channels': 32,
    'roi_head.bbox_head.num_classes': 3,
    'roi_head.mask_roi_extractor.out_channels': 16,
    'roi_head.mask_head.num_convs': 1,
    'roi_head.mask_head.in_channels': 16,
    'roi_head.mask_head.conv_out_channels': 16,
    'roi_head.mask_head.num_classes': 3,
    'train_cfg.rcnn.mask_size': 28,
}


class Slices(Dataset):
    """Discs of three classes, from one to three in an image of 64 x 64 px."""

    metainfo = dict(classes=('LV', 'Myo', 'RV'))

    def __len__(self):
        return 64

    def __getitem__(self, idx):
        generator = torch.Generator().manual_seed(idx)

        def draw(low, high):
            return int(torch.randint(low, high, (), generator=generator))

        image = torch.randint(0, 60, (3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
        rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing='ij')
        masks, boxes, labels = [], [], []
        for _ in range(1 + idx % 3):
            radius, label = draw(6, 16), draw(0, 3)
            y, x = draw(radius, SIZE - radius), draw(radius, SIZE - radius)
            mask = (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
            image[:, mask] += 60 * (label + 1)
            masks.append(mask.numpy().astype('uint8'))
            boxes.append([x - radius, y - radius, x + radius + 1, y + radius + 1])
            labels.append(label)
        instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32),
            labels=torch.tensor(labels),
            masks=BitmapMasks(masks, SIZE, SIZE),
        )
        shape = dict(img_shape=(SIZE, SIZE), ori_shape=(SIZE, SIZE), scale_factor=(1.0, 1.0))
        sample = DetDataSample(
            metainfo=dict(shape, img_id=idx, img_path=f'{idx}.png'), gt_instances=instances
        )
        return dict(inputs=image, data_samples=sample)


@functools.cache
def nano() -> Config:
    return Config.fromfile(NANO)


def model_config(**changes) -> dict:
    """The config of the model; `changes` by path, with `__` for the points."""
    cfg = copy.deepcopy(nano())
    changes = {**CHANGES, **{key.replace('__', '.'): value for key, value in changes.items()}}
    cfg.merge_from_dict({f'model.{key}': value for key, value in changes.items()})
    return cfg.model


class Recording(Hook):
    """Keeps losses, gradients and parameters of each step."""

    def __init__(self):
        self.losses, self.gradients, self.parameters, self.positives = [], [], [], []

    def before_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)

        def keep(*_):
            self.gradients.append(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )

        runner.optim_wrapper.optimizer.register_step_pre_hook(keep)
        head = model.roi_head.mask_head
        head.register_forward_hook(lambda *a: self.positives.append(len(a[2])))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: float(v) for k, v in outputs.items() if 'loss' in k})
        model = getattr(runner.model, 'module', runner.model)
        self.parameters.append({n: p.detach().clone() for n, p in model.named_parameters()})


@contextmanager
def fixed_sampling():
    """Samples of anchors and proposals in their order instead of at random."""
    arange = torch.arange

    def randperm(n, **kwargs):
        kwargs.pop('generator', None)
        return arange(n, **kwargs)

    with mock.patch('torch.randperm', randperm):
        yield


def train(work_dir, model, batch_size, launcher='none', steps=5, optim_wrapper=None, **cfg):
    """Train, and return what `Recording` has of it; images come in their order."""
    recording = Recording()
    # A class of its own: what a runner says of the environment takes long.
    runner_type = type('SwinExtRunner', (SwinExtRunner,), {'_log_env': lambda *_: None})
    runner = runner_type(
        model=model,
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=Slices(),
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(type='ResumableIterTrainLoop', max_iters=steps, val_interval=10**6),
        optim_wrapper=optim_wrapper or dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(checkpoint=None, logger=None),
        custom_hooks=[recording],
        launcher=launcher,
        randomness=dict(seed=0),
        default_scope='mmdet',
        log_level='WARNING',
        experiment_name=f'{work_dir}',
        cfg=Config(cfg),
    )
    with fixed_sampling():
        runner.train()
    return {name: getattr(recording, name) for name in vars(recording) if name != 'priority'}
