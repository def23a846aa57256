"""Freezing, and what is drawn at random, on two processes of `DistributedDataParallel`."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swin_ext.checkpoint.matching import Adaptation
from swin_ext.engine.hooks.adapt_checkpoint_hook import adapt_classes
from swin_ext.models import SwinBackbone
from two_ranks import run_on_two_ranks

ARCH = dict(embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2))
SIZES = [(64, 64), (61, 75)]  # of the images of each rank
NUM_STEPS = 2


class Detector(nn.Module):
    """A backbone, and something to learn where all of it is frozen."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList(nn.Conv2d(8 * 2**i, 1, 1) for i in range(4))

    def forward(self, images):
        maps = self.backbone(images)
        return sum(head(x).square().mean() for head, x in zip(self.heads, maps))


class ClassHeads(nn.Module):
    """A head under mmdet's names."""

    def __init__(self, num_classes):
        super().__init__()
        head = nn.Module()
        head.num_classes = num_classes
        head.fc_cls = nn.Linear(4, num_classes + 1)
        self.roi_head = nn.ModuleDict(dict(bbox_head=head))


def make_detector(backbone_type=SwinBackbone, **kwargs):
    if backbone_type is SwinBackbone:
        kwargs.update(arch=ARCH)
    else:
        kwargs.update(ARCH)
    torch.manual_seed(0)
    return Detector(backbone_type(drop_path_rate=0.0, **kwargs))


def images_of(step, rank):
    generator = torch.Generator().manual_seed(10 * step + rank)
    return torch.randn(2, 3, *SIZES[rank], generator=generator)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train_wrapped(model, rank):
    """Wrap, then switch to training mode, as mmengine's Runner does; return the gradients."""
    wrapped = DistributedDataParallel(model)
    wrapped.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        wrapped(images_of(step, rank)).backward()
        history.append(gradients(model))
        optimizer.step()
    return history


def train_single(model):
    """Do in one process what `train_wrapped` does in two."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = []
    for step in range(NUM_STEPS):
        optimizer.zero_grad()
        for rank in range(2):
            (model(images_of(step, rank)) / 2).backward()
        history.append(gradients(model))
        optimizer.step()
    return history


FROZEN_STAGES = [-1, 0, 2, 4]


def train_rank(rank, folder):
    results = {}
    for frozen_stages in FROZEN_STAGES:
        model = make_detector(frozen_stages=frozen_stages)
        history = train_wrapped(model, rank)
        results[frozen_stages] = dict(history=history, trained=model.state_dict())

    torch.manual_seed(rank)  # diff_rank_seed=True of a config's `randomness`
    source = {'roi_head.bbox_head.fc_cls.weight': torch.ones(3, 4)}
    heads = ClassHeads(num_classes=2)
    DistributedDataParallel(heads)  # as the runner does before it loads
    results['heads'] = adapt_classes(source, heads, ['LV', 'RV'], ['RV', 'scar'], Adaptation())

    model = make_detector(SwinTransformer, frozen_stages=2)
    try:
        train_wrapped(model, rank)
    except RuntimeError as error:
        results['mmdet'] = str(error)
    return results


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    """What each of the two processes found."""
    return run_on_two_ranks(train_rank, tmp_path_factory.mktemp('distributed'))


@pytest.mark.parametrize('frozen_stages', FROZEN_STAGES)
def test_gradients_are_the_average_over_ranks(ranks, frozen_stages):
    expected = train_single(make_detector(frozen_stages=frozen_stages))
    first, second = (rank[frozen_stages]['history'] for rank in ranks)
    for step in range(NUM_STEPS):
        assert first[step].keys() == second[step].keys() == expected[step].keys()
        for name, gradient in expected[step].items():
            assert torch.equal(first[step][name], second[step][name]), name
            # Biases of keys cancel in the softmax: their gradients are zero but for rounding.
            torch.testing.assert_close(first[step][name], gradient, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('frozen_stages', FROZEN_STAGES)
def test_frozen_parameters_stay_and_the_others_learn(ranks, frozen_stages):
    frozen = ()
    if frozen_stages >= 0:
        frozen = (
            'backbone.patch_embed',
            *(
                f'backbone.{part}'
                for i in range(frozen_stages)
                for part in (f'stages.{i}.', f'norm{i}.')
            ),
        )
    initial = make_detector(frozen_stages=frozen_stages)
    for rank in ranks:
        for name, parameter in initial.named_parameters():
            unchanged = torch.equal(rank[frozen_stages]['trained'][name], parameter)
            assert unchanged == name.startswith(frozen), name


def test_freezing_after_wrapping_fails(ranks):
    """What mmdet's backbone does, so that the tests above would see it."""
    for rank in ranks:
        assert 'Expected to have finished reduction in the prior iteration' in rank['mmdet']


def test_rows_of_new_classes_are_the_same_on_every_rank(ranks):
    first, second = (rank['heads']['roi_head.bbox_head.fc_cls.weight'] for rank in ranks)
    assert torch.equal(first, second)
    assert first[1].any() and not torch.equal(first[1], torch.ones(4))  # 'scar', drawn anew
