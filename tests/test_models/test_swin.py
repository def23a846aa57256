import functools

import cv2
import pytest
import torch
from mmdet.models.backbones.swin import SwinTransformer
from mmdet.registry import MODELS as MMDET_MODELS
from mmengine.registry import MODELS
from torch import nn

from compare_networks import (
    CPU_AUTOCAST_DTYPES,
    assert_same_outputs,
    gradients,
    relative_error,
)
from swin_ext.models import SwinBackbone
from swin_ext.models.blocks import relative_position_index
from swin_ext.models.layers import DropPath

TINY = dict(embed_dims=32, depths=(2, 2, 3, 1), num_heads=(2, 4, 8, 16))

SIZES = [
    (224, 224),  # last map is one window
    (448, 448),  # every map divides into windows
    (20, 20),  # every map is smaller than a window
    (33, 33),  # neither patches nor windows divide
    (61, 97),
    (500, 36),  # tall
    (36, 500),  # wide
]


def make_pair(**kwargs):
    """SwinBackbone and mmdet's SwinTransformer with the same random weights."""
    torch.manual_seed(0)
    own = SwinBackbone(arch=TINY, drop_path_rate=0.0, **kwargs)
    kwargs.pop('attn_impl', None)
    kwargs.pop('with_cp', None)
    peer = SwinTransformer(**TINY, drop_path_rate=0.0, **kwargs)
    for parameter in own.parameters():
        nn.init.normal_(parameter, std=0.2)
    own.eval()
    peer.eval()
    peer.load_state_dict(own.state_dict(), strict=True)
    return own, peer


@pytest.mark.parametrize('size', SIZES, ids='{0[0]}x{0[1]}'.format)
@pytest.mark.parametrize('attn_impl', ['eager', 'sdpa'])
@torch.no_grad()
def test_outputs_equal_mmdet(size, attn_impl):
    own, peer = make_pair(attn_impl=attn_impl)
    images = torch.randn(2, 3, *size)
    assert_same_outputs(own(images), peer(images))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(),
        dict(window_size=12),
        dict(patch_norm=False),
        dict(qkv_bias=False),
        dict(qk_scale=0.3),
        dict(mlp_ratio=2),
        dict(in_channels=1),
        dict(out_indices=(0, 2)),
        dict(out_indices=(3,)),
        dict(attn_impl='sdpa'),
        dict(with_cp=True),
    ],
    ids=str,
)
@pytest.mark.parametrize('batch, size', [(1, (61, 97)), (3, (112, 112))])
def test_outputs_and_gradients_equal_mmdet(kwargs, batch, size):
    own, peer = make_pair(**kwargs)
    own.train()
    peer.train()
    images = torch.randn(batch, kwargs.get('in_channels', 3), *size)
    with torch.no_grad():
        assert_same_outputs(own(images), peer(images))
    own_grads, peer_grads = gradients(own, images), gradients(peer, images)
    exact_grads = gradients(peer.double(), images.double())
    assert own_grads.keys() == exact_grads.keys()
    for name, exact in exact_grads.items():
        # mmdet itself is up to 3e-5 away from float64 for position bias tables.
        bound = max(1e-5, 1.1 * relative_error(peer_grads[name], exact))
        assert relative_error(own_grads[name], exact) <= bound, name
    for name, grad in gradients(own.double(), images.double()).items():
        assert relative_error(grad, exact_grads[name]) <= 1e-12, name


@pytest.mark.parametrize(
    'arch, embed_dims, depths, num_heads',
    [
        ('tiny', 96, (2, 2, 6, 2), (3, 6, 12, 24)),
        ('small', 96, (2, 2, 18, 2), (3, 6, 12, 24)),
        ('base', 128, (2, 2, 18, 2), (4, 8, 16, 32)),
        ('large', 192, (2, 2, 18, 2), (6, 12, 24, 48)),
    ],
)
def test_named_architectures_have_mmdets_parameters(
    arch, embed_dims, depths, num_heads, monkeypatch
):
    # mmdet reads values of linspace, which meta tensors have not.
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    with torch.device('meta'):
        own = SwinBackbone(arch=arch)
        peer = SwinTransformer(embed_dims=embed_dims, depths=depths, num_heads=num_heads)
    shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in peer.state_dict().items()}


@torch.no_grad()
def test_absolute_position_embedding_equals_mmdet_at_its_own_size():
    own, peer = make_pair(use_abs_pos_embed=True, pretrain_img_size=64)
    images = torch.randn(2, 3, 64, 64)
    assert_same_outputs(own(images), peer(images))


@torch.no_grad()
def test_absolute_position_embedding_is_resized_as_opencv_does():
    own = SwinBackbone(arch=TINY, use_abs_pos_embed=True, pretrain_img_size=64)
    nn.init.normal_(own.absolute_pos_embed)
    added = own._add_position_embedding(torch.zeros(1, 40, 24, 32))[0]
    grid = own.absolute_pos_embed[0].view(16, 16, 32).numpy()
    expected = cv2.resize(grid, (24, 40), interpolation=cv2.INTER_CUBIC)
    torch.testing.assert_close(added.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_relative_position_index_against_definition():
    index = relative_position_index(3)
    for a in range(9):
        for b in range(9):
            dy, dx = a // 3 - b // 3, a % 3 - b % 3
            assert index[a, b] == (dy + 2) * 5 + dx + 2


def test_stochastic_depth_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    drop_path = DropPath(0.25).train()
    branch = torch.ones(20000, 2, 2, 1)
    out = drop_path(branch, torch.zeros_like(branch))
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    values, counts = per_sample[:, 0].unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.75]))
    assert counts[0] / len(out) == pytest.approx(0.25, abs=0.01)  # 3 sigma
    assert torch.equal(drop_path.eval()(branch, branch), branch * 2)


def test_drop_path_rates_rise_linearly_over_blocks():
    backbone = SwinBackbone(arch=TINY, drop_path_rate=0.7)
    rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 3, 4])
def test_frozen_stages_are_those_of_mmdet(frozen_stages):
    own = SwinBackbone(
        arch=TINY, frozen_stages=frozen_stages, use_abs_pos_embed=True, pretrain_img_size=64
    )
    peer = SwinTransformer(
        **TINY, frozen_stages=frozen_stages, use_abs_pos_embed=True, pretrain_img_size=64
    )
    peer.train()
    expected = {name for name, p in peer.named_parameters() if p.requires_grad}
    # Before any train() call: that is when DDP looks.
    assert {name for name, p in own.named_parameters() if p.requires_grad} == expected
    own.eval()
    own.train()
    assert own.patch_embed.training == (frozen_stages < 0)
    for i, stage in enumerate(own.stages):
        assert {m.training for m in stage.modules()} == {i >= frozen_stages}
        assert getattr(own, f'norm{i}').training == (i >= frozen_stages)
    if frozen_stages < 4:
        outs = own(torch.randn(1, 3, 64, 64))
        assert [out.requires_grad for out in outs] == [i >= frozen_stages for i in range(4)]
        outs[-1].sum().backward()
        got_gradient = {name for name, p in own.named_parameters() if p.grad is not None}
        assert got_gradient == {
            name for name in expected if not name.startswith(('norm0', 'norm1', 'norm2'))
        }


def test_checkpointing_saves_activations():
    def saved_bytes(with_cp):
        backbone = SwinBackbone(arch=TINY, drop_path_rate=0.0, with_cp=with_cp).train()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: sizes.append(t.numel()) or t, lambda t: t
        ):
            backbone(torch.randn(1, 3, 64, 64))
        return sum(sizes)

    assert saved_bytes(True) < 0.3 * saved_bytes(False)


@pytest.mark.parametrize('dtype', CPU_AUTOCAST_DTYPES)
@torch.no_grad()
def test_autocast_stays_close_to_fp32(dtype):
    torch.manual_seed(0)
    backbone = SwinBackbone(arch=TINY, drop_path_rate=0.0).eval()
    images = torch.randn(1, 3, 64, 80)
    expected = backbone(images)
    with torch.autocast('cpu', dtype=dtype):
        actual = backbone(images)
    for a, e in zip(actual, expected):
        assert (a.float() - e).abs().mean() < 0.02 * e.abs().mean() + 0.02


def test_registered_in_the_root_registry_and_found_from_mmdets_scope():
    assert MODELS.get('SwinBackbone') is SwinBackbone
    assert MMDET_MODELS.get('SwinBackbone') is SwinBackbone


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (
            dict(arch='huge'),
            r"unknown arch 'huge'; choose one of \['base', 'large', 'small', 'tiny', ",
        ),
        (dict(arch=dict(embed_dims=32)), r"exactly the keys .* but has \['embed_dims'\]"),
        (dict(arch=dict(embed_dims=32, depths=(1, 1), num_heads=(1,))), 'one entry per stage'),
        (dict(arch=dict(embed_dims=30, depths=(1,), num_heads=(4,))), 'stage 0 has 30 channels'),
        (dict(out_indices=(0, 4)), r'out_indices=\(0, 4\) must name stages of 0..3'),
        (dict(out_indices=()), r'out_indices=\(\) must name stages'),
        (dict(frozen_stages=5), 'frozen_stages=5 must be -1'),
        (dict(frozen_stages=-2), 'frozen_stages=-2 must be -1'),
        (dict(frozen_stages='all'), "frozen_stages='all' must be -1"),
        (dict(pretrain_img_size=(224, 224, 224)), r'pretrain_img_size=\(224, 224, 224\) must be a'),
        (dict(patch_size=0), 'patch_size=0 must be a positive number'),
        (dict(mlp_ratio=-1), 'mlp_ratio=-1 must be a positive number'),
        (dict(drop_path_rate=2), r'drop_path_rate=2 must lie in \[0, 1\]'),
        (dict(drop_rate='0.1'), r"drop_rate='0.1' must lie in \[0, 1\]"),
        (dict(attn_impl='flash'), "unknown attn_impl 'flash'; choose auto, eager, sdpa, triton"),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SwinBackbone(**kwargs)
