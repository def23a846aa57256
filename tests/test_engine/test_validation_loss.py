"""Losses of the validation set: of the model as it is, and without a trace in the training."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS
from mmengine.structures import BaseDataElement, InstanceData
from torch import nn
from torch.utils.data import Dataset

import swin_ext.registration  # noqa: F401
from swin_ext.engine import SwinExtRunner
from swin_ext.engine.resumable_data import VALIDATION, seed_everything
from toy_cmr import ToyCMR
from toy_mask_rcnn import Slices, model_config
from two_ranks import run_on_two_ranks


def validate(model, dataset, work_dir, batch_size=2, loop='ValLoopWithLoss', **options):
    """Figures of one validation, and the runner."""
    # A class of its own: what a runner says of the environment takes long.
    runner_type = type('SwinExtRunner', (SwinExtRunner,), {'_log_env': lambda *_: None})
    runner = runner_type(
        model=model,
        work_dir=str(work_dir),
        val_dataloader=dict(
            dataset=dataset,
            batch_size=batch_size,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        val_cfg=dict(type=loop),
        val_evaluator=[],
        default_hooks=dict(logger=None, checkpoint=None),
        default_scope='mmdet',
        log_level='ERROR',
        experiment_name=f'{work_dir}_{random.random()}',
        **options,
    )
    return runner.val(), runner


# Of detectors


class FewSlices(Slices):
    def __len__(self):
        return 5


def build(cfg):
    torch.manual_seed(0)
    model = MODELS.build(ConfigDict(cfg))
    model.init_weights()
    return model


FCOS = dict(  # its head multiplies by the stride unless it is trained
    type='FCOS',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=model_config()['backbone'],
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=None,
        norm_on_bbox=True,
    ),
    test_cfg=dict(
        nms_pre=10,
        min_bbox_size=0,
        score_thr=0.5,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=5,
    ),
)


@pytest.mark.parametrize('cfg', [model_config(), FCOS], ids=['Mask R-CNN', 'FCOS'])
def test_they_are_those_that_training_would_have(cfg, tmp_path):
    model, data = build(cfg), FewSlices()
    figures, _ = validate(model, data, tmp_path)
    model.train()  # has neither dropout nor batch norms
    expected = []
    for index in range(len(data)):
        batch = {key: [value] for key, value in data[index].items()}
        seed_everything(0, VALIDATION)
        with torch.no_grad():
            losses = model(**model.data_preprocessor(batch, True), mode='loss')
        expected.append({k: float(v) for k, v in model.parse_losses(losses)[1].items()})
    assert {f'val/{name}' for name in expected[0]} == set(figures)
    for name in expected[0]:
        mean = np.mean([each[name] for each in expected])
        assert figures[f'val/{name}'] == pytest.approx(mean, rel=1e-6), name
    assert figures['val/loss'] > 0.1


def test_they_do_not_depend_on_the_batches(tmp_path):
    model = build(model_config())
    one, _ = validate(model, FewSlices(), tmp_path / 'one', batch_size=1)
    all_, _ = validate(model, FewSlices(), tmp_path / 'all', batch_size=5)
    assert one == all_


LOAD = dict(type='LoadAnnotations', with_bbox=True, with_mask=True)
RESIZE = dict(type='Resize', scale=(96, 80), keep_ratio=True)


@pytest.mark.parametrize('keep_ratio', [True, False])
def test_truth_is_of_the_size_of_the_input(tmp_path, keep_ratio):
    """Loaded before the resizing it is resized by mmdet, after it by the loop."""
    data = ToyCMR(tmp_path / 'data', num_images=2)
    model, figures, resize = build(model_config()), [], dict(RESIZE, keep_ratio=keep_ratio)
    for order in ([LOAD, resize], [resize, LOAD]):
        dataset = DATASETS.build(
            dict(
                type='CMRDataset',
                data_root=str(data.root),
                ann_file='val.json',
                data_prefix=dict(img='images/'),
                test_mode=True,
                pipeline=[dict(type='LoadCMRImage'), *order, dict(type='PackDetInputs')],
            )
        )
        figures.append(validate(model, dataset, tmp_path / str(len(figures)))[0])
    assert figures[0] == pytest.approx(figures[1], rel=1e-6)
    dataset.pipeline.transforms[1].scale = (64, 48)  # as it is: other losses
    assert validate(model, dataset, tmp_path / 'other')[0] != pytest.approx(figures[0], rel=1e-2)


# Of the state of a training


class Points(Dataset):
    metainfo = dict(classes=('a',))

    def __init__(self, truth=True):
        self.truth = truth

    def __len__(self):
        return 7

    def __getitem__(self, idx):
        sample = BaseDataElement(metainfo=dict(img_id=idx))
        if self.truth:
            sample.gt_instances = InstanceData(labels=torch.tensor([idx]))
        return dict(inputs=torch.tensor([float(idx), 1.0]), data_samples=sample)


class Noisy(BaseModel):
    """With all that is not to happen: running statistics, dropout, random numbers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(2, 1)
        self.modes = []

    def loss(self):
        """A detector has one."""

    def forward(self, inputs, data_samples, mode):
        self.modes.append((self.training, self.norm.training, self.dropout.training))
        x = self.linear(self.dropout(self.norm(torch.stack(list(inputs)))))
        if mode == 'predict':
            return data_samples
        drawn = torch.rand(()) + np.random.rand() + random.random()
        target = torch.tensor([float(sample.gt_instances.labels) for sample in data_samples])
        return dict(loss_fit=(x[:, 0] - target).abs().mean(), loss_drawn=drawn)


class Quiet(BaseModel):
    def forward(self, inputs, data_samples, mode):
        return data_samples


def noisy():
    torch.manual_seed(0)
    return Noisy()


def test_they_leave_no_trace(tmp_path):
    model = noisy()
    before = copy.deepcopy(model.state_dict())
    states = []

    class Reseed(Hook):
        def before_val_epoch(self, runner):
            random.seed(1), np.random.seed(1), torch.manual_seed(1)

        def after_val_epoch(self, runner, metrics=None):
            states.append((random.random(), np.random.rand(), float(torch.rand(()))))

    validate(Quiet(), Points(), tmp_path, loop='ValLoop', custom_hooks=[Reseed()])
    figures, runner = validate(model, Points(), tmp_path, custom_hooks=[Reseed()])
    assert states[0] == states[1]  # of a validation that draws nothing but what the loader draws
    assert set(model.modes) == {(True, False, False), (False, False, False)}
    assert not any(module.training for module in model.modules())  # as the validation has it
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert figures == runner.val()


def closed_form(model) -> float:
    with torch.no_grad():
        fits = [
            (model.linear(model.norm(sample['inputs'][None]))[0, 0] - index).abs()
            for index, sample in ((i, Points()[i]) for i in range(len(Points())))
        ]
    return float(torch.stack(fits).double().mean())


def test_the_mean_over_images(tmp_path):
    model = noisy()
    figures, _ = validate(model, Points(), tmp_path, batch_size=3)
    assert figures['val/loss_fit'] == pytest.approx(closed_form(model.eval()), rel=1e-6)
    assert figures['val/loss'] == pytest.approx(
        figures['val/loss_fit'] + figures['val/loss_drawn'], rel=1e-6
    )


def validate_on_rank(rank, folder):
    """Seven images on two ranks: the second sees one of them again."""
    figures, _ = validate(
        noisy(),
        Points(),
        folder / 'run',
        launcher='pytorch',
    )
    return figures


def test_two_ranks_have_the_mean_over_all_images(tmp_path):
    first, second = run_on_two_ranks(validate_on_rank, tmp_path)
    assert first == second
    assert first['val/loss_fit'] == pytest.approx(closed_form(noisy().eval()), rel=1e-6)


def test_samples_without_truth_are_refused(tmp_path):
    with pytest.raises(ValueError, match='no ground truth(?s:.*)val_cfg.type=ValLoop'):
        validate(noisy(), Points(truth=False), tmp_path)
