"""Swin V2 against timm's and torchvision's, whose weights and gradients are converted to ours."""

import math
from collections import defaultdict

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import swin_transformer as tv

from compare_networks import (
    CPU_AUTOCAST_DTYPES,
    assert_same_outputs,
    gradients,
    relative_error,
)
from swin_ext.models import SwinBackbone
from swin_ext.models.weights.fitting import match_to_model
from swin_ext.models.weights.swin import convert_swin_state_dict

timm = pytest.importorskip('timm')

DEPTHS, HEADS = (2, 2, 3, 2), (1, 2, 4, 8)
ARCH = dict(version=2, embed_dims=16, depths=DEPTHS, num_heads=HEADS)
SMALL_ARCH = dict(version=2, embed_dims=16, depths=(2, 2), num_heads=(1, 2))


def make_timm(size, window=8, **kwargs):
    return timm.models.swin_transformer_v2.SwinTransformerV2(
        img_size=size,
        window_size=window,
        embed_dim=16,
        depths=DEPTHS,
        num_heads=HEADS,
        drop_path_rate=0.0,
        num_classes=0,
        **kwargs,
    )


def make_torchvision(size, window=8):
    return tv.SwinTransformer(
        [4, 4],
        16,
        list(DEPTHS),
        list(HEADS),
        [window, window],
        stochastic_depth_prob=0.0,
        num_classes=1,
        block=tv.SwinTransformerBlockV2,
        downsample_layer=tv.PatchMergingV2,
    )


def peer_maps(peer, images):
    """Outputs of the stages, channels first and not normed."""
    if hasattr(peer, 'forward_intermediates'):
        return peer.forward_intermediates(images, intermediates_only=True)
    x, maps = images, []
    for i, part in enumerate(peer.features):
        x = part(x)
        if i % 2:  # 0 is the patch embedding, then blocks and mergings alternate
            maps.append(x.permute(0, 3, 1, 2))
    return maps


def randomise(module):
    """Draw all parameters so that signals neither vanish nor explode."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape)
        if name.endswith('logit_scale'):
            noise = math.log(10) + 0.3 * noise
        elif parameter.ndim == 1:
            noise = 0.3 * noise + ('norm' in name and name.endswith('weight'))
        else:
            noise = noise / math.sqrt(parameter[0].numel())
        parameter.data.copy_(noise)
    return module


def make_own(peer, **kwargs):
    """SwinBackbone with the weights of `peer` and, as the peers, without output norms."""
    own = SwinBackbone(**{'arch': ARCH, 'drop_path_rate': 0.0, **kwargs})
    matched = match_to_model(convert_swin_state_dict(peer.state_dict()), own.state_dict())
    own.load_state_dict(matched.state_dict, strict=False)
    assert all(name.startswith('norm') for name in matched.reinitialised)
    for i in own.out_indices:
        setattr(own, f'norm{i}', nn.Identity())
    return own


# torchvision pads as SwinBackbone does; timm reduces windows and pads differently, so that it is
# an oracle only where windows divide the maps.
PEERS = [
    (make_timm, (256, 256), 'eager'),  # last map is one window
    (make_timm, (256, 512), 'sdpa'),  # last map is one window high and two wide
    (make_torchvision, (256, 256), 'sdpa'),
    (make_torchvision, (512, 256), 'eager'),
    (make_torchvision, (20, 20), 'eager'),  # every map is smaller than a window
    (make_torchvision, (60, 100), 'eager'),  # windows divide no map, and merging pads
    (make_torchvision, (60, 100), 'sdpa'),
]


def peer_id(value):
    if isinstance(value, (dict, str)):
        return str(value)
    return value.__name__ if callable(value) else f'{value[0]}x{value[1]}'


@pytest.mark.parametrize('make_peer, size, attn_impl', PEERS, ids=peer_id)
@torch.no_grad()
def test_outputs_equal_peers(make_peer, size, attn_impl):
    peer = randomise(make_peer(size)).eval()
    own = make_own(peer, attn_impl=attn_impl).eval()
    images = torch.randn(2 if size[0] < 256 else 1, 3, *size)
    assert_same_outputs(own(images), peer_maps(peer, images))


@pytest.mark.parametrize(
    'make_peer, size, kwargs',
    [
        (make_timm, (256, 256), dict()),
        (make_torchvision, (256, 256), dict()),
        (make_torchvision, (60, 100), dict()),
        (make_torchvision, (60, 100), dict(attn_impl='sdpa')),
        (make_torchvision, (60, 100), dict(with_cp=True)),
    ],
    ids=peer_id,
)
def test_outputs_and_gradients_equal_peers(make_peer, size, kwargs):
    peer = randomise(make_peer(size)).train()
    own = make_own(peer, **kwargs).train()
    images = torch.randn(2 if size[0] < 256 else 1, 3, *size)

    def forward_peer(images):
        return peer_maps(peer, images)

    with torch.no_grad():
        assert_same_outputs(own(images), forward_peer(images))
    own_grads = gradients(own, images)
    peer_grads = convert_swin_state_dict(gradients(peer, images, forward_peer)).state_dict
    exact_grads = convert_swin_state_dict(
        gradients(peer.double(), images.double(), forward_peer)
    ).state_dict
    assert own_grads.keys() == exact_grads.keys()
    # Position biases and logit scales have cancelling gradients, since softmax does not see a
    # constant: there the peers, too, are more than 1e-5 away from float64. Single ones of these
    # errors are chance, so they are compared over all blocks.
    by_leaf = defaultdict(list)
    for name in exact_grads:
        on_logits = any(part in name for part in ('logit_scale', 'q_bias', 'cpb_mlp'))
        by_leaf[name.split('w_msa.')[-1] if on_logits else name].append(name)
    for leaf, names in by_leaf.items():
        exact = torch.cat([exact_grads[name].flatten() for name in names])
        own_error, peer_error = (
            relative_error(torch.cat([grads[name].flatten() for name in names]), exact)
            for grads in (own_grads, peer_grads)
        )
        assert own_error <= max(1e-5, 2 * peer_error), leaf
    for name, grad in gradients(own.double(), images.double()).items():
        assert relative_error(grad, exact_grads[name]) <= 1e-11, name


@torch.no_grad()
def test_window_16_equals_timm():
    """Of a window of 16 trained with 12; the last map, 8 x 8, has a window of its own size."""
    peer = randomise(make_timm(256, window=16, pretrained_window_sizes=(12, 12, 12, 6))).eval()
    images = torch.randn(1, 3, 256, 256)
    own = make_own(peer, window_size=(16, 16, 16, 8), pretrained_window_sizes=(12, 12, 12, 6))
    assert_same_outputs(own.eval()(images), peer_maps(peer, images))


@torch.no_grad()
def test_window_16_in_all_stages_equals_torchvision():
    peer = randomise(make_torchvision(256, window=16)).eval()
    images = torch.randn(1, 3, 256, 256)
    own = make_own(peer, window_size=16)
    assert_same_outputs(own.eval()(images), peer_maps(peer, images))


@pytest.mark.parametrize(
    'make_peer',
    [
        lambda: timm.create_model('swinv2_tiny_window8_256', drop_path_rate=0.0),
        lambda: torchvision.models.swin_v2_t(weights=None),
    ],
    ids=['timm', 'torchvision'],
)
@torch.no_grad()
def test_tiny_equals_the_peers_own(make_peer):
    peer = randomise(make_peer()).eval()
    own = make_own(peer, arch='v2-tiny').eval()
    images = torch.randn(1, 3, 256, 256)
    assert_same_outputs(own(images), peer_maps(peer, images))


@pytest.mark.parametrize(
    'arch, make_peer',
    [('v2-small', torchvision.models.swin_v2_s), ('v2-base', torchvision.models.swin_v2_b)],
)
def test_named_architectures_have_torchvisions_parameters(arch, make_peer):
    with torch.device('meta'):
        own = SwinBackbone(arch=arch, out_indices=(3,))
        peer = make_peer(weights=None)
    expected = convert_swin_state_dict(peer.state_dict()).state_dict
    shapes = {name: tensor.shape for name, tensor in own.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in expected.items()}


@torch.no_grad()
def test_logit_scale_is_limited_to_100():
    peer = randomise(make_torchvision((64, 64))).eval()
    for name, parameter in peer.named_parameters():
        if name.endswith('logit_scale'):
            parameter.fill_(math.log(100) + 1)
    own = make_own(peer).eval()
    images = torch.randn(1, 3, 64, 64)
    # Attention is nearly one-hot at this scale and passes rounding errors on.
    assert_same_outputs(own.double()(images.double()), peer_maps(peer.double(), images.double()))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(qkv_bias=False),
        dict(patch_norm=False),
        dict(in_channels=1, mlp_ratio=2),
        dict(out_indices=(1,), use_abs_pos_embed=True, pretrain_img_size=64),
        dict(drop_rate=0.1, attn_drop_rate=0.1, drop_path_rate=0.2),
        dict(shift_single_window=True),
    ],
    ids=str,
)
def test_arguments_of_v1_work(kwargs):
    backbone = SwinBackbone(arch=SMALL_ARCH, **{'out_indices': (0, 1), **kwargs}).train()
    backbone.init_weights()
    outs = backbone(torch.randn(2, kwargs.get('in_channels', 3), 61, 97))
    sizes = {0: (16, 16, 25), 1: (32, 8, 13)}
    assert [out.shape[1:] for out in outs] == [sizes[i] for i in backbone.out_indices]
    sum(out.square().sum() for out in outs).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for name, p in backbone.named_parameters()
    )


@pytest.mark.parametrize('size', [(33, 33), (61, 97), (300, 36)])
@torch.no_grad()
def test_shapes_at_odd_sizes(size):
    backbone = SwinBackbone(arch=ARCH).eval()
    expected, (H, W) = [], size
    for i in range(4):
        stride = 4 * 2**i
        expected.append((1, 16 * 2**i, math.ceil(H / stride), math.ceil(W / stride)))
    assert [tuple(out.shape) for out in backbone(torch.randn(1, 3, *size))] == expected


@torch.no_grad()
def test_initial_blocks_are_identities():
    """As Microsoft's: norms at the end of the branches begin with 0."""
    backbone = SwinBackbone(arch=SMALL_ARCH, out_indices=(0, 1)).eval()
    backbone.init_weights()
    images = torch.randn(1, 3, 64, 64)
    stem = backbone.patch_embed(images)
    assert torch.equal(backbone.stages[0](stem), stem)
    attention = backbone.stages[1].blocks[0].attn.w_msa
    assert attention.logit_scale.exp().flatten().tolist() == pytest.approx([10, 10])
    assert 0.015 < attention.qkv.weight.std() < 0.025


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 4])
def test_freezing(frozen_stages):
    own = SwinBackbone(arch=ARCH, frozen_stages=frozen_stages)
    frozen = ('patch_embed',) if frozen_stages >= 0 else ()
    frozen += tuple(f'{part}{i}.' for i in range(frozen_stages) for part in ('stages.', 'norm'))
    expected = {name for name, _ in own.named_parameters() if not name.startswith(frozen)}
    assert {name for name, p in own.named_parameters() if p.requires_grad} == expected
    own.train()
    for i, stage in enumerate(own.stages):
        assert {m.training for m in stage.modules()} == {i >= frozen_stages}
    outs = own(torch.randn(1, 3, 64, 64))
    assert [out.requires_grad for out in outs] == [i >= frozen_stages for i in range(4)]
    if expected:
        sum(out.sum() for out in outs).backward()
        assert {name for name, p in own.named_parameters() if p.grad is not None} == expected


@pytest.mark.parametrize('attn_impl', ['eager', 'sdpa'])
@pytest.mark.parametrize('dtype', CPU_AUTOCAST_DTYPES)
def test_autocast_stays_close_to_fp32_and_finite(dtype, attn_impl):
    """Keys of padding are zero vectors, whose normalisation has no gradient that fp16 can hold."""
    backbone = randomise(
        SwinBackbone(arch=SMALL_ARCH, out_indices=(0, 1), drop_path_rate=0.0, attn_impl=attn_impl)
    ).train()
    images = torch.randn(1, 3, 60, 100)
    expected = backbone(images)
    expected_grads = gradients(backbone, images)

    def forward(images):
        with torch.autocast('cpu', dtype=dtype):
            return backbone(images)

    for a, e in zip(forward(images), expected):
        assert (a.float() - e).abs().mean() < 0.02 * e.abs().mean()
    tolerance = 0.1 if dtype == torch.bfloat16 else 0.02
    for name, grad in gradients(backbone, images, forward).items():
        assert relative_error(grad, expected_grads[name].double()) < tolerance, name


@pytest.mark.skipif(not hasattr(torch.compiler, 'is_compiling'), reason='needs torch 2.3')
def test_compiles_without_a_graph_break():
    torch._dynamo.reset()
    arch = dict(version=2, embed_dims=16, depths=(2,), num_heads=(1,))
    backbone = randomise(SwinBackbone(arch=arch, out_indices=(0,), drop_path_rate=0.0))
    compiled = torch.compile(backbone, backend='eager', fullgraph=True)
    images = torch.randn(1, 3, 60, 100)
    with torch.no_grad():
        expected = backbone(images)
    assert_same_outputs([out.detach() for out in compiled(images)], expected)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(arch='v2-huge'), "unknown arch 'v2-huge'; choose one of .*'v2-small'"),
        (dict(arch=dict(ARCH, version=3)), 'no Swin of version 3'),
        (dict(arch='v2-tiny', qk_scale=0.2), r'qk_scale=0.2 is for Swin V1.*Remove it'),
        (
            dict(arch='tiny', pretrained_window_sizes=8),
            'pretrained_window_sizes=8 is for Swin V2.*Remove it',
        ),
        (
            dict(arch='v2-tiny', pretrained_window_sizes=(8, 8)),
            r'pretrained_window_sizes=\(8, 8\) must be .* a list of 4, one per stage',
        ),
        (dict(arch='v2-tiny', window_size=0), 'window_size=0 must be a positive number of tokens'),
        (dict(arch='tiny', window_size=(7, 7, 7)), r'window_size=\(7, 7, 7\) must be'),
    ],
    ids=str,
)
def test_impossible_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SwinBackbone(**kwargs)
