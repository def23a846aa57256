"""No hidden state: outputs are those of the weights as they are, whoever changed or shares them."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from swin_ext.models.attention import windows
from swin_ext.models.swin import SwinBackbone

ARCHS = {
    'v1': dict(embed_dims=16, depths=(2, 2), num_heads=(1, 2)),
    'v2': dict(version=2, embed_dims=16, depths=(2, 2), num_heads=(1, 2)),
}
VERSIONS = pytest.mark.parametrize('version', ARCHS)
SIZES = [(64, 64), (33, 97), (100, 36), (61, 75)]


def make(version, seed=0):
    torch.manual_seed(seed)
    backbone = SwinBackbone(arch=ARCHS[version], out_indices=(0, 1), drop_path_rate=0.0)
    for name, parameter in backbone.named_parameters():
        if not name.endswith('logit_scale'):
            nn.init.normal_(parameter, std=0.2)
    return backbone.eval()


def images_of(size=SIZES[1], seed=1):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


def assert_equal(outs, expected):
    for out, e in zip(outs, expected):
        torch.testing.assert_close(out, e, rtol=0, atol=0)


def by_data_copy(backbone, other):
    for parameter, value in zip(backbone.parameters(), other.parameters()):
        parameter.data.copy_(value)


def by_data_assignment(backbone, other):
    for parameter, value in zip(backbone.parameters(), other.parameters()):
        parameter.data = value.detach().clone()


def by_loading(backbone, other):
    backbone.load_state_dict(other.state_dict())


def by_numpy(backbone, other):
    for parameter, value in zip(backbone.parameters(), other.parameters()):
        parameter.detach().numpy()[...] = value.detach().numpy()


def by_ema_swap(backbone, other):
    """As MMEngine's `EMAHook` does around a validation."""
    averaged = ExponentialMovingAverage(other)
    for p_avg, p in zip(averaged.module.parameters(), backbone.parameters()):
        tmp = p_avg.data.clone()
        p_avg.data.copy_(p.data)
        p.data.copy_(tmp)


@VERSIONS
@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    'change', [by_data_copy, by_data_assignment, by_loading, by_numpy, by_ema_swap]
)
def test_outputs_follow_the_weights_at_once(version, mode, change):
    backbone, other, images = make(version), make(version, seed=5), images_of()
    with mode():
        expected = other(images)
        before = backbone(images)
    change(backbone, other)
    with mode():
        after = backbone(images)
    assert not torch.equal(before[0], after[0])
    assert_equal(after, expected)


@VERSIONS
def test_built_and_used_in_inference_mode(version):
    expected = make(version)(images_of())
    with torch.inference_mode():
        outs = make(version)(images_of())
    assert_equal(outs, expected)


@VERSIONS
@pytest.mark.parametrize('size', SIZES)
def test_training_after_inference_mode(version, size):
    windows._kept_grid.cache_clear()
    backbone, fresh = make(version), make(version)
    with torch.inference_mode():
        backbone(images_of(size))
    for module in (backbone, fresh):
        sum(out.square().mean() for out in module.train()(images_of(size))).backward()
    for own, other in zip(backbone.parameters(), fresh.parameters()):
        assert torch.equal(own.grad, other.grad)


@VERSIONS
def test_threads_share_a_model(version):
    """Sizes alternate in each thread, and differ between threads at any time."""
    windows._kept_grid.cache_clear()
    backbone = make(version)
    with torch.no_grad():
        expected = {size: backbone(images_of(size)) for size in SIZES}
    windows._kept_grid.cache_clear()
    wrong, start = [], threading.Barrier(4)

    def run(first):
        start.wait()
        with torch.no_grad():
            for step in range(24):
                size = SIZES[(first + step) % len(SIZES)]
                outs = backbone(images_of(size))
                if not all(map(torch.equal, outs, expected[size])):
                    wrong.append(size)

    threads = [threading.Thread(target=run, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@VERSIONS
def test_copies_and_pickles_carry_no_state(version):
    backbone = make(version)
    size_before = len(pickle.dumps(backbone))
    with torch.no_grad():
        expected = backbone(images_of())
        assert len(pickle.dumps(backbone)) == size_before
        assert_equal(copy.deepcopy(backbone)(images_of()), expected)
        assert_equal(pickle.loads(pickle.dumps(backbone))(images_of()), expected)


@VERSIONS
@torch.no_grad()
def test_dtype_moves(version):
    backbone = make(version)
    expected = backbone(images_of())
    double = backbone.double()(images_of().double())
    assert all(out.dtype == torch.float64 for out in double)
    assert_equal(backbone.float()(images_of()), expected)


@VERSIONS
@torch.no_grad()
def test_fake_tensors_are_not_kept(version):
    windows._kept_grid.cache_clear()
    backbone = make(version)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        backbone(mode.from_tensor(images_of()))
    outs = backbone(images_of())
    assert all(type(out) is torch.Tensor for out in outs)
    windows._kept_grid.cache_clear()
    assert_equal(outs, backbone(images_of()))


def test_kept_grids_are_bounded():
    windows._kept_grid.cache_clear()
    like = torch.empty(0)
    for height in range(1, 2 * windows.KEPT_GRIDS):
        windows.window_grid(height, 5, 4, (2, 2), like)
    assert windows._kept_grid.cache_info().currsize == windows.KEPT_GRIDS


@pytest.mark.parametrize(
    'other',
    [
        dict(H=9),
        dict(W=6),
        dict(window=3),
        dict(shift=(0, 0)),
        dict(like=torch.empty(0, dtype=torch.float64)),
        dict(like=torch.empty(0, device='meta')),
    ],
    ids=lambda other: next(iter(other)),
)
def test_grids_are_kept_by_value(other):
    given = dict(H=8, W=5, window=4, shift=(2, 2), like=torch.empty(0))
    grid = windows.window_grid(**given)
    assert windows.window_grid(**dict(given, like=torch.ones(3))) is grid
    assert windows.window_grid(**{**given, **other}) is not grid
