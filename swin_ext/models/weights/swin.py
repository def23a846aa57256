"""Swin weights of any origin, under the parameter names of `SwinBackbone`.

The way of weights from a file into a backbone:

    checkpoint = read_checkpoint('swin_tiny.safetensors')       # of checkpoint.weight_files
    converted = convert_swin_state_dict(checkpoint)             # any names -> ours
    matched = match_to_model(converted, backbone.state_dict())  # resized, checked, reported
    backbone.load_state_dict(matched.state_dict, strict=False)
    print(matched.report())

`class_layers` does the same service to the heads of a whole detector or segmentor.

`SwinBackbone` has the names of mmdet 3.3's `SwinTransformer`. Swin V2 gets their natural extension:
`attn.w_msa.{logit_scale,q_bias,v_bias,cpb_mlp.0,cpb_mlp.2}` in place of the bias table and of
`qkv.bias`, and a `downsample.norm` of the merged map's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from swin_ext.checkpoint.matching import CONSTANTS
from swin_ext.models.weights.recognition import (
    SwinWeightsError,
    detect_format,
    is_weights,
    locate_backbone,
    short_names,
    unwrap,
)
from swin_ext.models.weights.swin_names import module_patterns, rename


@dataclass
class ConvertedWeights:
    """A Swin state dict under the names of `SwinBackbone`.

    Attributes:
        format: Where it came from, as `detect_format` names it.
        state_dict: Tensors under their new names.
        sources: For each new name, the keys of the file it was made of.
        unused: Keys of the file that are no part of the backbone.
        buffers: Keys of the file that the model recomputes.
        notes: Decisions a reader of the report should know of.
    """

    format: str
    state_dict: dict[str, Tensor]
    sources: dict[str, tuple[str, ...]]
    unused: list[str]
    buffers: list[str]
    notes: list[str]


def _merge_qkv(weights: ConvertedWeights) -> None:
    """Stack separate q, k and v into the rows of one `qkv`; V2 has no bias of k."""
    tensors, sources = weights.state_dict, weights.sources
    for name in [name for name in tensors if name.endswith('.w_msa.q.weight')]:
        parent = name[: -len('q.weight')]
        for leaf in ('weight', 'bias'):
            parts = [f'{parent}{x}.{leaf}' for x in 'qkv']
            missing = [part for part in parts if part not in tensors]
            if leaf == 'bias' and len(missing) == 3:  # a model without qkv_bias
                continue
            if weights.format.endswith('-v2') and missing == [f'{parent}k.bias']:
                for x in 'qv':
                    tensors[f'{parent}{x}_bias'] = tensors.pop(f'{parent}{x}.bias')
                    sources[f'{parent}{x}_bias'] = sources.pop(f'{parent}{x}.bias')
                continue
            if missing:
                raise SwinWeightsError(
                    f'The {weights.format} state dict lacks {", ".join(missing)} of the three '
                    'tensors that make up qkv: it is incomplete.'
                )
            merged = f'{parent}qkv.{leaf}'
            tensors[merged] = torch.cat([tensors.pop(part) for part in parts])
            sources[merged] = sum((sources.pop(part) for part in parts), ())


def _split_v2_bias(weights: ConvertedWeights) -> None:
    """Take q and v from torchvision's qkv bias, whose part for k it sets to 0 in each forward."""
    for name in [name for name in weights.state_dict if name.endswith('.w_msa.qkv.bias')]:
        q_bias, _, v_bias = weights.state_dict.pop(name).chunk(3)
        parent, source = name[: -len('qkv.bias')], weights.sources.pop(name)
        weights.state_dict.update({f'{parent}q_bias': q_bias, f'{parent}v_bias': v_bias})
        weights.sources.update({f'{parent}q_bias': source, f'{parent}v_bias': source})


def _to_unfold_order(tensor: Tensor) -> Tensor:
    """Reorder the last axis, merged channels, from Microsoft's order to that of `nn.Unfold`.

    Microsoft concatenates the 2 x 2 neighbours (y, x) = (0, 0), (1, 0), (0, 1), (1, 1), all
    channels of one before the next: axes (x, y, channel). `nn.Unfold` has (channel, y, x).
    """
    *rows, merged = tensor.shape
    return tensor.reshape(*rows, 2, 2, merged // 4).transpose(-1, -3).reshape(tensor.shape)


def _convert_merging(weights: ConvertedWeights) -> None:
    for name, tensor in weights.state_dict.items():
        if name.endswith('.downsample.reduction.weight'):
            weights.state_dict[name] = _to_unfold_order(tensor)
        elif '.downsample.norm.' in name and not weights.format.endswith('-v2'):
            weights.state_dict[name] = _to_unfold_order(tensor)  # V2 norms after the reduction


def _place_final_norm(weights: ConvertedWeights) -> None:
    """Make a classifier's norm the output norm of the last stage, which it is.

    Microsoft's and mmdet's loaders leave it out and begin with a fresh norm; mmpretrain's maps it
    as here. A file's own output norm goes first (HF backbones hold both).
    """
    last = max(int(name.split('.')[1]) for name in weights.state_dict if 'stages.' in name)
    for leaf in ('weight', 'bias'):
        tensor = weights.state_dict.pop(f'final_norm.{leaf}', None)
        if tensor is None:
            continue
        source = weights.sources.pop(f'final_norm.{leaf}')
        if f'norm{last}.{leaf}' in weights.state_dict:
            weights.unused.extend(source)
        else:
            weights.state_dict[f'norm{last}.{leaf}'] = tensor
            weights.sources[f'norm{last}.{leaf}'] = source
            weights.notes.append(f'{source[0]} of the file became norm{last}.{leaf}')


def convert_swin_state_dict(checkpoint: Mapping) -> ConvertedWeights:
    """Rename and reorder Swin weights of any origin for `SwinBackbone`.

    Args:
        checkpoint: State dict of tensors or NumPy arrays, of a backbone, a classifier or a whole
            detector; or a checkpoint that holds one. Any prefix (`backbone.`, `module.`, ...) is
            found and removed. Where there are averaged (EMA) weights, they are taken.

    Raises:
        SwinWeightsError: If there is no Swin Transformer in it, several, or an incomplete one.
    """
    state_dict, wrapper = unwrap(checkpoint)
    weights = ConvertedWeights(detect_format(state_dict), {}, {}, [], [], [])
    if wrapper is not None and 'ema' in wrapper:
        weights.notes.append(f'weights taken from the key {wrapper!r} of the checkpoint')
    family, is_v2 = weights.format.replace('-v2', ''), weights.format.endswith('-v2')
    patterns = module_patterns(family)
    names = short_names(state_dict, locate_backbone(state_dict)[1])

    for name, key in names.items():
        renamed = rename(name, patterns)
        if name.endswith(CONSTANTS):
            weights.buffers.append(key)
        elif renamed is None or not is_weights(state_dict[key]):
            weights.unused.append(key)
        else:
            weights.state_dict[renamed] = torch.as_tensor(state_dict[key]).detach()
            weights.sources[renamed] = (key,)
    below_prefix = set(names.values())
    weights.unused += [key for key in state_dict if key not in below_prefix]

    if family == 'huggingface':
        _merge_qkv(weights)
    if family == 'torchvision' and is_v2:
        _split_v2_bias(weights)
    if family not in ('mmdet', 'mmpretrain'):
        _convert_merging(weights)
    position = weights.state_dict.get('absolute_pos_embed')
    if position is not None and position.ndim == 4:  # (1, C, H, W) of Microsoft's detection code
        weights.state_dict['absolute_pos_embed'] = position.flatten(2).transpose(1, 2)
    _place_final_norm(weights)
    return weights
