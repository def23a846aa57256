"""A small training of a detector-like model, in one process or (see `two_ranks`) in two."""

from __future__ import annotations

import os

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import SwinExtRunner

WIDTH = 6


class ToyImages(Dataset):
    """Sixteen inputs of `shape`, with metainfo as of an mmdet data set."""

    metainfo = dict(classes=('LV',))

    def __init__(self, shape=(WIDTH,)):
        self.shape = shape

    def __len__(self):
        return 16

    def __getitem__(self, idx):
        generator = torch.Generator().manual_seed(idx)
        meta = dict(img_id=100 + idx, img_path=f'images/{idx}.png', scale_factor=(1.0, 1.0))
        return dict(
            inputs=torch.randn(self.shape, generator=generator),
            data_samples=BaseDataElement(metainfo=meta),
        )


class ToyBackbone(nn.Module):
    """Three layers; the first has the modules that do otherwise in evaluation mode."""

    num_features = [WIDTH]

    def __init__(self):
        super().__init__()
        self.layer0 = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.Dropout(0.5))
        self.layer1 = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH), nn.Tanh())
        self.layer2 = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return (self.layer2(self.layer1(self.layer0(x)))[..., None, None],)


class ToyDetector(BaseModel):
    """Learns the sum of its inputs from feature maps.

    Args:
        bad_losses: What the loss of an image is multiplied with, by id.
    """

    def __init__(self, backbone=None, bad_losses=None):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = backbone or ToyBackbone()
        self.head = nn.Linear(sum(self.backbone.num_features), 1)
        self.bad_losses = bad_losses or {}

    def init_weights(self):
        """Leave the weights as they were made, whatever has been drawn since."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        x = torch.stack(list(inputs))
        features = torch.cat([map.mean((2, 3)) for map in self.backbone(x)], dim=1)
        predicted = self.head(features)[:, 0]
        if mode != 'loss':
            return [BaseDataElement() for _ in predicted]
        losses = (predicted - x.flatten(1).sum(1)).square()
        factors = [self.bad_losses.get(sample.img_id, 1.0) for sample in data_samples]
        losses = losses * losses.new_tensor(factors)
        return dict(loss_cls=losses.mean(), loss_bbox=0.1 * predicted.square().mean())


def make_runner(
    work_dir,
    model=None,
    hooks=(),
    dataset=None,
    batch_size=4,
    max_epochs=2,
    optim_wrapper=None,
    val_interval=None,
    train_cfg=None,
    runner_type=SwinExtRunner,
    **kwargs,
):
    """A runner that takes the samples in their order; ranks take them in turns."""
    loader = dict(
        dataset=dataset or ToyImages(),
        batch_size=batch_size,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    if val_interval:
        kwargs.update(val_dataloader=loader, val_cfg=dict(), val_evaluator=[])
    # Of its own: what a runner says of the environment takes long, and other tests look at it.
    runner_type = type(runner_type.__name__, (runner_type,), {'_log_env': lambda *_: None})
    return runner_type(
        model=model or ToyDetector(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        train_cfg=train_cfg
        or dict(
            type='EpochTrainLoopWithIterVal',
            max_epochs=max_epochs,
            val_begin=0,
            val_interval=val_interval or 10**6,
        ),
        optim_wrapper=optim_wrapper or dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        cfg=dict(model_wrapper_cfg=dict(type='CPUDistributedDataParallel')),
        experiment_name=f'{work_dir}-{os.urandom(4).hex()}',
        **kwargs,
    )
