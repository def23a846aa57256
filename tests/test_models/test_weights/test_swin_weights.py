"""Converted weights make `SwinBackbone` compute what the module they came from computes.

Each peer is built small, with every parameter drawn at random (fresh norms would hide a wrong order
of channels), converted, and compared by its feature maps. At 448 px all four stages are larger than
a window and divide by it; at 224 px the last stage is a single window, in which classification
models do not shift and detection models do.
"""

import math
import re
from collections import OrderedDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from swin_ext.models.swin import SwinBackbone
from swin_ext.models.weights.fitting import infer_architecture, match_to_model
from swin_ext.models.weights.recognition import SwinWeightsError
from swin_ext.models.weights.swin import convert_swin_state_dict

WIDTH, DEPTHS, HEADS = 24, (2, 2, 4, 2), (1, 2, 4, 8)
ARCH = dict(embed_dims=WIDTH, depths=DEPTHS, num_heads=HEADS)


def randomise(module, seed=0):
    """Draw all parameters so that signals neither vanish nor explode, and set evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            noise = 0.3 * noise + ('norm' in name and name.endswith('weight'))
        elif name.endswith('relative_position_bias_table'):
            pass
        elif name.endswith('logit_scale'):
            noise = math.log(10) + 0.3 * noise
        else:
            noise = noise / math.sqrt(parameter[0].numel())
        parameter.data.copy_(noise)
    return module.eval()


def picture(size, seed=1):
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))


def backbone(**kwargs):
    return SwinBackbone(**{'arch': ARCH, **kwargs}).eval()


def load(model, state_dict):
    """Convert, match and load into `model`."""
    matched = match_to_model(convert_swin_state_dict(state_dict), model.state_dict())
    model.load_state_dict(matched.state_dict, strict=False)
    return matched


def assert_equal_maps(actual, expected, rtol=1e-5):
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= rtol * theirs.abs().max()


def normed(maps):
    """What fresh output norms make of channels-first maps."""
    return [F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1) for x in maps]


# ------------------------------------------------------------------------------------- peers


def timm_swin(size=224, **kwargs):
    timm_module = pytest.importorskip('timm.models.swin_transformer')
    return randomise(
        timm_module.SwinTransformer(
            **{
                **dict(
                    img_size=size, embed_dim=WIDTH, depths=DEPTHS, num_heads=HEADS, num_classes=5
                ),
                **kwargs,
            }
        )
    )


def timm_maps(model, x):
    """Outputs of the stages, the last one normed."""
    return model.forward_intermediates(x, norm=True, intermediates_only=True)


def torchvision_swin(version=1, window=7):
    from torchvision.models import swin_transformer as tv

    kwargs = dict(block=tv.SwinTransformerBlockV2, downsample_layer=tv.PatchMergingV2)
    return randomise(
        tv.SwinTransformer(
            [4, 4],
            WIDTH,
            list(DEPTHS),
            list(HEADS),
            [window, window],
            num_classes=5,
            **(kwargs if version == 2 else {}),
        )
    )


def torchvision_maps(model, x):
    maps = []
    for i, part in enumerate(model.features):
        x = part(x)
        if i % 2:  # 0 is the patch embedding, then blocks and mergings alternate
            maps.append(x)
    maps[-1] = model.norm(maps[-1])
    return [x.permute(0, 3, 1, 2) for x in maps]


def hf_swin(cls, config='SwinConfig', **kwargs):
    transformers = pytest.importorskip('transformers')
    config = getattr(transformers, config)(
        **{
            **dict(
                embed_dim=WIDTH,
                depths=list(DEPTHS),
                num_heads=list(HEADS),
                window_size=7,
                image_size=224,
                out_features=['stage1', 'stage2', 'stage3', 'stage4'],
            ),
            **kwargs,
        }
    )
    return randomise(getattr(transformers, cls)(config))


def to_microsoft(timm_state):
    """Undo what timm 0.9 changed: patch merging at the end of a stage, and a plain head.

    timm.models.swin_transformer.checkpoint_filter_fn does the reverse to Microsoft's files.
    """
    names = {}
    for key, value in timm_state.items():
        parts = key.replace('head.fc.', 'head.').split('.')
        if parts[2:3] == ['downsample']:
            parts[1] = str(int(parts[1]) - 1)
        names['.'.join(parts)] = value
    window = torch.arange(49)
    names['layers.0.blocks.0.attn.relative_position_index'] = window[:, None] - window + 84
    names['layers.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    return names


# ---------------------------------------------------------------------- round trips, Swin V1


@torch.no_grad()
def test_timm():
    model, target = timm_swin(448), backbone()
    matched = load(target, model.state_dict())
    assert matched.format == 'timm'
    maps = timm_maps(model, picture(448))
    assert_equal_maps(target(picture(448)), [*normed(maps[:3]), maps[3]])
    assert matched.unused == ['head.fc.weight', 'head.fc.bias']
    assert sorted(matched.reinitialised) == sorted(
        f'norm{i}.{leaf}' for i in range(3) for leaf in ('weight', 'bias')
    )


@torch.no_grad()
def test_timm_at_224():
    model, target = timm_swin(224), backbone()
    load(target, model.state_dict())
    assert_equal_maps(target(picture(224))[:3], normed(timm_maps(model, picture(224))[:3]))


@torch.no_grad()
@pytest.mark.parametrize(
    'model, maps', [(timm_swin, timm_maps), (torchvision_swin, torchvision_maps)]
)
def test_classifiers_at_224_without_shift_of_a_single_window(model, maps):
    model, target = model(), backbone(shift_single_window=False)
    load(target, model.state_dict())
    expected = maps(model, picture(224))
    assert_equal_maps(target(picture(224)), [*normed(expected[:3]), expected[3]])


@torch.no_grad()
def test_hf_classifier_at_224_without_shift_of_a_single_window():
    model, target = hf_swin('SwinModel'), backbone(shift_single_window=False)
    load(target, model.state_dict())
    last = model(picture(224)).last_hidden_state
    assert_equal_maps(target(picture(224))[3:], [last.mT.unflatten(2, (7, 7))])


@torch.no_grad()
def test_timm_feature_extractor(tmp_path):
    """`features_only`: flattened names, and fewer stages; through safetensors."""
    save_file = pytest.importorskip('safetensors.torch').save_file
    from swin_ext.checkpoint.weight_files import read_checkpoint

    timm = pytest.importorskip('timm')
    model = randomise(
        timm.create_model(
            'swin_tiny_patch4_window7_224',
            features_only=True,
            out_indices=(0, 1, 2),
            img_size=448,
            embed_dim=WIDTH,
            depths=DEPTHS,
            num_heads=HEADS,
        )
    )
    assert 'layers_0.blocks.0.attn.qkv.weight' in model.state_dict()
    save_file(model.state_dict(), tmp_path / 'model.safetensors')

    arch = dict(embed_dims=WIDTH, depths=DEPTHS[:3], num_heads=HEADS[:3])
    target = backbone(arch=arch, out_indices=(0, 1, 2))
    matched = load(target, read_checkpoint(tmp_path / 'model.safetensors'))
    assert matched.format == 'timm'
    maps = [x.permute(0, 3, 1, 2) for x in model(picture(448))]
    assert_equal_maps(target(picture(448)), normed(maps))


@torch.no_grad()
def test_torchvision():
    model, target = torchvision_swin(), backbone()
    matched = load(target, model.state_dict())
    assert matched.format == 'torchvision'
    assert matched.unused == ['head.weight', 'head.bias']
    maps = torchvision_maps(model, picture(448))
    assert_equal_maps(target(picture(448)), [*normed(maps[:3]), maps[3]])
    assert_equal_maps(target(picture(224))[:3], normed(torchvision_maps(model, picture(224))[:3]))


@torch.no_grad()
@pytest.mark.parametrize('in_file', [False, True])
def test_hf_backbone(in_file, tmp_path):
    """Of HF's classes this one shifts as detection does, and has the output norms."""
    from swin_ext.checkpoint.weight_files import read_checkpoint

    model = hf_swin('SwinBackbone', use_absolute_embeddings=True)
    target = backbone(use_abs_pos_embed=True)
    state_dict = model.state_dict()
    if in_file:  # where transformers 5 writes the names of transformers 4
        model.save_pretrained(tmp_path)
        state_dict = read_checkpoint(tmp_path / 'model.safetensors')
    matched = load(target, state_dict)
    assert matched.format == 'huggingface'
    assert matched.reinitialised == {}
    assert_equal_maps(target(picture(224)), model(picture(224)).feature_maps)
    assert [key.split('.')[-2] for key in matched.unused] in (['layernorm'] * 2, [])


@torch.no_grad()
@pytest.mark.parametrize('cls', ['SwinModel', 'SwinForImageClassification'])
def test_hf_classifier(cls, tmp_path):
    from swin_ext.checkpoint.weight_files import read_checkpoint

    model, target = hf_swin(cls), backbone()
    model.save_pretrained(tmp_path)
    matched = load(target, read_checkpoint(tmp_path / 'model.safetensors'))
    assert matched.unused == (
        [] if cls == 'SwinModel' else ['classifier.bias', 'classifier.weight']
    )
    last = getattr(model, 'swin', model)(picture(448)).last_hidden_state
    assert_equal_maps(target(picture(448))[3:], [last.mT.unflatten(2, (14, 14))])


@torch.no_grad()
@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.', 'model.backbone.', 'encoder.'])
def test_microsoft(prefix):
    model, target = timm_swin(448), backbone()
    state_dict = {prefix + k: v for k, v in to_microsoft(model.state_dict()).items()}
    matched = load(target, {'model': state_dict})
    assert matched.format == 'microsoft'
    assert matched.unused == [f'{prefix}head.weight', f'{prefix}head.bias']
    assert matched.buffers == [
        f'{prefix}layers.0.blocks.0.attn.relative_position_index',
        f'{prefix}layers.0.blocks.1.attn_mask',
    ]
    maps = timm_maps(model, picture(448))
    assert_equal_maps(target(picture(448)), [*normed(maps[:3]), maps[3]])


def test_microsoft_like_mmdet_converter():
    from mmdet.models.backbones.swin import swin_converter

    import swin_ext  # noqa: F401  # mmdet.models needs the operators it brings

    state_dict = to_microsoft(timm_swin().state_dict())
    del state_dict['layers.0.blocks.0.attn.relative_position_index']
    del state_dict['layers.0.blocks.1.attn_mask']
    expected = {k[len('backbone.') :]: v for k, v in swin_converter(state_dict).items()}
    # mmdet's module has no place for `norm`: it begins with a fresh norm3
    for leaf in ('weight', 'bias'):
        expected[f'norm3.{leaf}'] = expected.pop(f'norm.{leaf}')

    converted = convert_swin_state_dict(state_dict)
    assert converted.state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(converted.state_dict[name], tensor, rtol=0, atol=0)
    assert 'norm.weight of the file became norm3.weight' in converted.notes


@torch.no_grad()
def test_microsoft_detector():
    """Swin-Transformer-Object-Detection and Mask2Former: four output norms, other parts."""
    model, target = timm_swin(448), backbone()
    state_dict = {
        f'backbone.{k}': v
        for k, v in to_microsoft(model.state_dict()).items()
        if not k.startswith(('head', 'norm'))
    }
    norms = {
        f'norm{i}.{leaf}': torch.randn(WIDTH * 2**i)
        for i in range(4)
        for leaf in ('weight', 'bias')
    }
    state_dict.update({f'backbone.{k}': v for k, v in norms.items()})
    state_dict['sem_seg_head.predictor.query_feat.weight'] = torch.zeros(100, 256)
    matched = load(target, {'state_dict': state_dict, 'meta': {}})
    assert matched.unused == ['sem_seg_head.predictor.query_feat.weight']
    assert matched.reinitialised == {}
    maps = model.forward_intermediates(picture(448), intermediates_only=True)
    expected = [
        F.layer_norm(
            x.movedim(1, -1), x.shape[1:2], norms[f'norm{i}.weight'], norms[f'norm{i}.bias']
        ).movedim(-1, 1)
        for i, x in enumerate(maps)
    ]
    assert_equal_maps(target(picture(448)), expected)


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_mmdet_is_kept(prefix):
    source, target = randomise(backbone(use_abs_pos_embed=True)), backbone(use_abs_pos_embed=True)
    state_dict = OrderedDict((prefix + k, v) for k, v in source.state_dict().items())
    if prefix:
        state_dict['neck.lateral_convs.0.conv.weight'] = torch.zeros(256, WIDTH, 1, 1)
    matched = load(target, state_dict)
    assert matched.format == 'mmdet'
    assert matched.unused == ['neck.lateral_convs.0.conv.weight'] * bool(prefix)
    assert len(matched.buffers) == sum(DEPTHS)
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], tensor, rtol=0, atol=0)


# ---------------------------------------------------------------------- round trips, Swin V2


class SwinV2(nn.Module):
    """Swin V2 from Section 3 of https://arxiv.org/abs/2111.09883, run on converted weights."""

    def __init__(self, weights, window):
        super().__init__()
        self.weights, self.window = weights, window

    def linear(self, x, name, bias=True):
        return F.linear(
            x, self.weights[f'{name}.weight'], self.weights[f'{name}.bias'] if bias else None
        )

    def norm(self, x, name):
        return F.layer_norm(
            x, x.shape[-1:], self.weights[f'{name}.weight'], self.weights[f'{name}.bias']
        )

    def position_bias(self, name):
        steps = torch.arange(self.window, dtype=torch.float32)
        y, x = (t.flatten() for t in torch.meshgrid(steps, steps, indexing='ij'))
        offsets = torch.stack([y[:, None] - y, x[:, None] - x], -1)  # (N, N, 2)
        offsets = 8 * offsets / (self.window - 1)
        offsets = offsets.sign() * (offsets.abs() + 1).log2() / 3  # log2(8)
        hidden = self.linear(offsets, f'{name}.cpb_mlp.0').relu()
        return 16 * self.linear(hidden, f'{name}.cpb_mlp.2', bias=False).sigmoid().movedim(-1, 0)

    def attention(self, x, name, shift):
        w, (_, H, W, C) = self.window, x.shape
        zones = torch.zeros(H, W)
        if shift:
            for axis in (0, 1):
                for edge in (w, shift):
                    zones = zones.movedim(axis, 0)
                    zones[-edge:] += 3**axis
                    zones = zones.movedim(0, axis)
            x = x.roll((-shift, -shift), (1, 2))

        def windows(t):
            return (
                t.unflatten(2, (-1, w))
                .unflatten(1, (-1, w))
                .transpose(2, 3)
                .flatten(3, 4)
                .flatten(1, 2)[0]
            )  # (nW, N, C)

        zones = windows(zones[None, ..., None])
        mask = (zones != zones.mT).unsqueeze(1)
        heads = self.weights[f'{name}.logit_scale'].shape[0]
        q_bias, v_bias = self.weights[f'{name}.q_bias'], self.weights[f'{name}.v_bias']
        qkv = F.linear(
            windows(x),
            self.weights[f'{name}.qkv.weight'],
            torch.cat([q_bias, torch.zeros_like(q_bias), v_bias]),
        )
        q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
        logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
        logits = logits * self.weights[f'{name}.logit_scale'].clamp(max=math.log(100)).exp()
        logits = (logits + self.position_bias(name)).masked_fill(mask, -math.inf)
        x = self.linear((logits.softmax(-1) @ v).transpose(1, 2).flatten(2), f'{name}.proj')
        x = x.view(1, H // w, W // w, w, w, C).transpose(2, 3).reshape(1, H, W, C)
        return x.roll((shift, shift), (1, 2)) if shift else x

    def forward(self, x):
        x = F.conv2d(
            x,
            self.weights['patch_embed.projection.weight'],
            self.weights['patch_embed.projection.bias'],
            stride=4,
        )
        x = self.norm(x.permute(0, 2, 3, 1), 'patch_embed.norm')
        maps = []
        for i, depth in enumerate(DEPTHS):
            for j in range(depth):
                block = f'stages.{i}.blocks.{j}'
                shift = self.window // 2 if j % 2 else 0
                x = x + self.norm(self.attention(x, f'{block}.attn.w_msa', shift), f'{block}.norm1')
                hidden = F.gelu(self.linear(x, f'{block}.ffn.layers.0.0'))
                x = x + self.norm(self.linear(hidden, f'{block}.ffn.layers.1'), f'{block}.norm2')
            maps.append(x.permute(0, 3, 1, 2))
            if i < 3:
                merged = F.unfold(maps[-1], 2, stride=2).mT.unflatten(1, (x.shape[1] // 2, -1))
                x = self.linear(merged, f'stages.{i}.downsample.reduction', bias=False)
                x = self.norm(x, f'stages.{i}.downsample.norm')
        return maps


def v2_timm():
    timm_module = pytest.importorskip('timm.models.swin_transformer_v2')
    model = randomise(
        timm_module.SwinTransformerV2(
            img_size=256,
            window_size=4,
            embed_dim=WIDTH,
            depths=DEPTHS,
            num_heads=HEADS,
            num_classes=5,
        )
    )
    return model, lambda x: model.forward_intermediates(x, intermediates_only=True)


def v2_torchvision():
    model = torchvision_swin(version=2, window=4)
    model.norm = nn.Identity()
    return model, partial(torchvision_maps, model)


def v2_hf():
    model = hf_swin('Swinv2Backbone', 'Swinv2Config', window_size=4, image_size=256)
    return model, lambda x: model(x).feature_maps


@torch.no_grad()
@pytest.mark.parametrize(
    'peer, expected_format',
    [(v2_timm, 'timm-v2'), (v2_torchvision, 'torchvision-v2'), (v2_hf, 'huggingface-v2')],
)
def test_v2(peer, expected_format):
    model, maps = peer()
    converted = convert_swin_state_dict(model.state_dict())
    assert converted.format == expected_format
    assert_equal_maps(SwinV2(converted.state_dict, window=4)(picture(256)), maps(picture(256)))
    assert infer_architecture(converted.state_dict) == dict(
        arch=dict(ARCH, version=2), window_size=None
    )
    assert not [name for name in converted.unused if 'head' not in name and 'norm' not in name]


def test_v2_microsoft():
    model, _ = v2_timm()
    expected = convert_swin_state_dict(model.state_dict()).state_dict
    converted = convert_swin_state_dict(to_microsoft(model.state_dict()))
    assert converted.format == 'microsoft-v2'
    assert converted.state_dict.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(converted.state_dict[name], tensor, rtol=0, atol=0)


def test_v2_mmpretrain():
    """mmpretrain has our names of V2, but for patch merging, which opens the stage after it."""
    expected = randomise(backbone(arch=dict(ARCH, version=2))).state_dict()
    state_dict = {
        re.sub(
            r'stages\.(\d)\.downsample', lambda m: f'stages.{int(m[1]) + 1}.downsample', name
        ): tensor
        for name, tensor in expected.items()
    }
    converted = convert_swin_state_dict({f'backbone.{k}': v for k, v in state_dict.items()})
    assert converted.format == 'mmpretrain-v2'
    assert converted.state_dict.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in converted.state_dict.items())


def test_v2_of_ours():
    expected = randomise(backbone(arch=dict(ARCH, version=2))).state_dict()
    converted = convert_swin_state_dict(expected)
    assert converted.format == 'mmdet-v2'
    assert converted.state_dict.keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in converted.state_dict.items())


# ------------------------------------------------------------------------- formats and wrappers


@pytest.fixture(scope='module')
def microsoft():
    return to_microsoft(timm_swin().state_dict())


@pytest.fixture(scope='module')
def mmdet():
    return randomise(backbone()).state_dict()


@pytest.mark.parametrize(
    'wrap, note',
    [
        (lambda good, bad: {'model': good}, False),
        (lambda good, bad: {'model_state_dict': good, 'epoch': 3}, False),
        (lambda good, bad: {'state_dict': bad, 'state_dict_ema': good}, True),
        (lambda good, bad: {'model': bad, 'model_ema': good}, True),
        # mmengine's EMAHook swaps the two when saving
        (
            lambda good, bad: {
                'state_dict': good,
                'ema_state_dict': {f'module.{k}': v for k, v in bad.items()},
            },
            False,
        ),
        (lambda good, bad: {'ema_state_dict': {f'module.{k}': v for k, v in good.items()}}, True),
    ],
)
def test_wrappers(microsoft, wrap, note):
    other = {k: torch.zeros_like(v) for k, v in microsoft.items()}
    converted = convert_swin_state_dict(wrap(microsoft, other))
    torch.testing.assert_close(
        converted.state_dict['patch_embed.projection.weight'],
        microsoft['patch_embed.proj.weight'],
        rtol=0,
        atol=0,
    )
    assert any('weights taken from' in text for text in converted.notes) == note


def test_numpy_arrays(microsoft):
    converted = convert_swin_state_dict({k: v.numpy() for k, v in microsoft.items()})
    expected = convert_swin_state_dict(microsoft)
    assert converted.state_dict.keys() == expected.state_dict.keys()
    assert all(v.equal(expected.state_dict[k]) for k, v in converted.state_dict.items())


@pytest.mark.parametrize(
    'make, message',
    [
        (lambda ms: {'conv1.weight': torch.zeros(1)}, 'No Swin Transformer found.*conv1'),
        (lambda ms: {}, 'keys \\[\\]: neither tensors nor any of'),
        (lambda ms: {'net': ms}, r"keys \['net'\]: neither tensors nor any of.*state_dict"),
        (
            lambda ms: {f'{p}.{k}': v for k, v in ms.items() for p in ('student', 'teacher')},
            r"2 Swin Transformers, under the prefixes \['student\.', 'teacher\.'\]",
        ),
    ],
)
def test_unrecognised(microsoft, make, message):
    with pytest.raises(SwinWeightsError, match=message):
        convert_swin_state_dict(make(microsoft))


def test_incomplete_qkv():
    state_dict = hf_swin('SwinModel').state_dict()
    del state_dict['encoder.layers.2.blocks.1.attention.v_proj.bias']
    with pytest.raises(SwinWeightsError, match=r'lacks stages\.2\.blocks\.1\.attn\.w_msa\.v\.bias'):
        convert_swin_state_dict(state_dict)


def test_unknown_tensors_are_reported(microsoft):
    extra = {
        'layers.0.blocks.0.attn.lora_a': torch.zeros(2),
        'layers.0.adapter.weight': torch.zeros(3),
        'steps': 7,
    }
    converted = convert_swin_state_dict({**microsoft, **extra})
    assert converted.unused == [*[k for k in microsoft if k.startswith('head')], *extra]


# ------------------------------------------------------------------------------------- matching


def test_every_tensor_is_accounted_for(microsoft):
    model_state = backbone(window_size=9).state_dict()
    converted = convert_swin_state_dict(microsoft)
    matched = match_to_model(converted, model_state)
    parameters = {k for k in model_state if not k.endswith('relative_position_index')}
    assert {*matched.loaded, *matched.resized, *matched.reinitialised} == parameters
    assert {*matched.loaded, *matched.resized} == set(matched.state_dict)
    used = [key for name in matched.state_dict for key in converted.sources[name]]
    assert sorted([*used, *matched.unused, *matched.buffers]) == sorted(microsoft)


def test_report(microsoft):
    state_dict = {k: v for k, v in microsoft.items() if k != 'layers.3.blocks.1.norm2.bias'}
    model_state = backbone(window_size=9).state_dict()
    report = match_to_model(convert_swin_state_dict(state_dict), model_state).report()
    lines = [line.strip() for line in report.splitlines()]
    assert lines[0] == "Swin weights in microsoft format: 144 of the model's 151 parameters set."
    assert 'loaded unchanged in size: 134' in lines
    assert 'resized: 10' in lines
    assert (
        'stages.3.blocks.0.attn.w_msa.relative_position_bias_table (169, 8) in the file, '
        '(289, 8) in the model'
    ) in lines
    assert 're-initialised: 7' in lines
    assert 'norm0.weight (not in the file)' in lines
    assert 'stages.3.blocks.1.norm2.bias (not in the file)' in lines
    assert 'unused from the file: 2' in lines
    assert 'head.weight' in lines
    assert 'recomputed by the model (buffers of the file): 2' in lines
    assert 'note: norm.weight of the file became norm3.weight' in lines


@pytest.mark.parametrize('window', [5, 8, 12])
def test_bias_table_is_resized(microsoft, window):
    resize = pytest.importorskip('timm.layers').resize_rel_pos_bias_table_simple
    matched = match_to_model(
        convert_swin_state_dict(microsoft), backbone(window_size=window).state_dict()
    )
    assert len(matched.resized) == sum(DEPTHS)
    name = 'stages.2.blocks.3.attn.w_msa.relative_position_bias_table'
    table = microsoft['layers.2.blocks.3.attn.relative_position_bias_table']
    expected = resize(table, (window, window), ((2 * window - 1) ** 2, 4))
    torch.testing.assert_close(matched.state_dict[name], expected, rtol=0, atol=1e-6)


def test_position_embedding_is_resized_and_flattened(microsoft):
    """(1, C, H, W), as Microsoft's detection code has it, and (1, N, C) of other sizes."""
    image = torch.randn(1, WIDTH, 56, 56)
    model_state = backbone(use_abs_pos_embed=True, pretrain_img_size=384).state_dict()
    expected = F.interpolate(image, size=(96, 96), mode='bicubic').flatten(2).mT
    for embedding in (image, image.flatten(2).mT):
        matched = match_to_model(
            convert_swin_state_dict({**microsoft, 'absolute_pos_embed': embedding}), model_state
        )
        torch.testing.assert_close(matched.state_dict['absolute_pos_embed'], expected)
        assert list(matched.resized) == ['absolute_pos_embed']


def test_what_cannot_be_resized_is_reinitialised(microsoft):
    oblong = {
        **microsoft,
        'absolute_pos_embed': torch.zeros(1, 56 * 40, WIDTH),
        'layers.0.blocks.0.attn.relative_position_bias_table': torch.zeros(13 * 5, 1),
    }
    matched = match_to_model(
        convert_swin_state_dict(oblong), backbone(use_abs_pos_embed=True).state_dict()
    )
    shapes = {k: v for k, v in matched.reinitialised.items() if v != 'not in the file'}
    assert shapes == {
        'absolute_pos_embed': '(1, 2240, 24) in the file, (1, 3136, 24) in the model',
        'stages.0.blocks.0.attn.w_msa.relative_position_bias_table': (
            '(65, 1) in the file, (169, 1) in the model'
        ),
    }
    assert {'absolute_pos_embed', 'layers.0.blocks.0.attn.relative_position_bias_table'} <= set(
        matched.unused
    )


def test_output_norms_of_unused_stages_are_reported(mmdet):
    matched = match_to_model(
        convert_swin_state_dict(mmdet), backbone(out_indices=(2, 3)).state_dict()
    )
    assert sorted(matched.unused) == ['norm0.bias', 'norm0.weight', 'norm1.bias', 'norm1.weight']


@pytest.mark.parametrize(
    'arch, message',
    [
        (
            dict(ARCH, embed_dims=48),
            r"10 of its 143 .*microsoft format.*'embed_dims': 24.*"
            r"'embed_dims': 48.*patch_embed.projection.weight: \(24, 3, 4, 4\) in the file",
        ),
        (dict(ARCH, depths=(2, 2, 6, 2)), r'\(2, 2, 4, 2\).*\(2, 2, 6, 2\).*stages\.2\.blocks\.4'),
        (dict(ARCH, depths=(2, 2, 2, 2)), '2 blocks of the file have no place'),
    ],
)
def test_other_architecture(microsoft, arch, message):
    with pytest.raises(SwinWeightsError, match=message):
        match_to_model(convert_swin_state_dict(microsoft), backbone(arch=arch).state_dict())


@pytest.mark.parametrize('num_missing, fits', [(7, True), (8, False)])
def test_completeness_limit(microsoft, num_missing, fits):
    """143 parameters count (151 less the output norms): 95 % of them are 135.85."""
    missing = [k for k in microsoft if '.mlp.' in k][:num_missing]
    converted = convert_swin_state_dict({k: v for k, v in microsoft.items() if k not in missing})
    if fits:
        assert len(match_to_model(converted, backbone().state_dict()).reinitialised) == 7 + 6
    else:
        with pytest.raises(SwinWeightsError, match='135 of its 143 parameters'):
            match_to_model(converted, backbone().state_dict())


def test_v2_does_not_load_into_v1():
    with pytest.raises(SwinWeightsError, match='timm-v2'):
        match_to_model(convert_swin_state_dict(v2_timm()[0].state_dict()), backbone().state_dict())


@pytest.mark.parametrize('window', [7, 12])
def test_infer_architecture(window):
    state_dict = backbone(window_size=window).state_dict()
    assert infer_architecture(state_dict) == dict(arch=ARCH, window_size=window)


# ----------------------------------------------------------------------------- heads of detectors
