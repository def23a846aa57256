"""Swin weights of any origin, under the parameter names of `SwinBackbone`.

Weights travel through this file from top to bottom:

    checkpoint = read_checkpoint('swin_tiny.safetensors')       # of engine.checkpoint_files
    converted = convert_swin_state_dict(checkpoint)             # any names -> ours
    matched = match_to_model(converted, backbone.state_dict())  # resized, checked, reported
    backbone.load_state_dict(matched.state_dict, strict=False)
    print(matched.report())

`remap_class_layers` does the same service to the heads of a whole Mask R-CNN.

`SwinBackbone` has the names of mmdet 3.3's `SwinTransformer`. Swin V2 gets their natural extension:
`attn.w_msa.{logit_scale,q_bias,v_bias,cpb_mlp.0,cpb_mlp.2}` in place of the bias table and of
`qkv.bias`, and a `downsample.norm` of the merged map's width.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class SwinWeightsError(ValueError):
    """Weights that cannot be recognised or fitted to the model."""


# --------------------------------------------------------------------------- recognising formats

# Where training scripts put the weights, the averaged ones first. mmengine's `ema_state_dict` comes
# last: its EMAHook writes the averaged weights to `state_dict`, and the others there.
_WRAPPERS = (
    'state_dict_ema',
    'model_ema',
    'state_dict',
    'model',
    'model_state_dict',
    'ema_state_dict',
)

# The weight of the first query, after any prefix, gives a file's format away.
_FIRST_QUERY = {
    'mmdet': r'stages\.0\.blocks\.0\.attn\.w_msa\.qkv\.weight',
    'microsoft': r'layers[._]0\.blocks\.0\.attn\.qkv\.weight',
    'torchvision': r'features\.1\.0\.attn\.qkv\.weight',
    'huggingface': r'(?:swin(?:v2)?\.)?encoder\.layers\.0\.blocks\.0\.attention\.'
    r'(?:self\.query|q_proj)\.weight',
}


def _is_weights(value) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def _unwrap(checkpoint: Mapping) -> tuple[Mapping, str | None]:
    """Return the state dict within `checkpoint` and the key it was found under."""
    for key in _WRAPPERS:
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key], key
    if any(_is_weights(value) for value in checkpoint.values()):
        return checkpoint, None
    raise SwinWeightsError(
        f'The checkpoint has the keys {list(checkpoint)[:10]}: neither tensors nor any of '
        f'{", ".join(_WRAPPERS)}. Pass the state dict within it.'
    )


def _locate_backbone(state_dict: Mapping) -> tuple[str, str]:
    """Return the family of names and the prefix of the one Swin in a state dict."""
    found = []
    for key in state_dict:
        for family, query in _FIRST_QUERY.items():
            match = re.fullmatch(rf'((?:.*?\.)??){query}', key)
            if match:
                found.append((family, match[1]))
    if not found:
        raise SwinWeightsError(
            'No Swin Transformer found in the state dict: no key is the first query projection '
            f'of {", ".join(_FIRST_QUERY)}. Its keys begin with {list(state_dict)[:5]}.'
        )
    if len(found) > 1:
        prefixes = [prefix for _, prefix in found]
        raise SwinWeightsError(
            f'The state dict holds {len(found)} Swin Transformers, under the prefixes {prefixes}. '
            'Keep the entries of one of them.'
        )
    return found[0]


def _short_names(state_dict: Mapping, prefix: str) -> dict[str, str]:
    """Map the name within the backbone to the key, for keys below `prefix`.

    timm writes `layers_0` for a feature extractor, and HF nests the same names below `swin.` in
    some of its classes.
    """
    names = {}
    for key in state_dict:
        if key.startswith(prefix):
            name = re.sub(r'^swin(?:v2)?\.', '', key[len(prefix) :])
            names[re.sub(r'^layers_(\d)', r'layers.\1', name)] = key
    return names


def detect_format(state_dict: Mapping) -> str:
    """Tell by its names where a Swin state dict comes from.

    Returns:
        'mmdet' (2.x, 3.x, mmsegmentation, mmpretrain's V1 and our V2), 'mmpretrain' (its V2),
        'microsoft' (also its detection code, Mask2Former, SimMIM and timm before 0.9), 'timm' (0.9
        and later), 'torchvision' or 'huggingface'; with '-v2' appended for Swin V2. In 'timm' and
        'mmpretrain', patch merging is part of the stage after it.

    Raises:
        SwinWeightsError: If there is no Swin Transformer, or several.
    """
    family, prefix = _locate_backbone(state_dict)
    names = _short_names(state_dict, prefix)
    is_v2 = any(name.endswith('.logit_scale') for name in names)
    merging = [name for name in names if re.match(r'(layers|stages)\.\d+\.downsample\.', name)]
    if merging and not any(re.match(r'(layers|stages)\.0\.', name) for name in merging):
        if family == 'microsoft':
            family = 'timm'
        elif family == 'mmdet' and is_v2:
            family = 'mmpretrain'
    return f'{family}-v2' if is_v2 else family


# ------------------------------------------------------------------------------ renaming tensors

_BLOCK = 'stages.{i}.blocks.{j}'

# Module names of each format and ours; what follows them (`.weight`) is kept. Numbers to fill in:
# {i}, {j} as matched, {before} = i - 1, {stage} = (i - 1) // 2. 'final_norm' is a classifier's
# norm of the last stage.
_MODULES = {
    'mmdet': {
        'patch_embed': 'patch_embed',
        'absolute_pos_embed': 'absolute_pos_embed',
        'stages.{i}': 'stages.{i}',
        'norm{i}': 'norm{i}',
        'norm': 'final_norm',
    },
    'microsoft': {
        'patch_embed.proj': 'patch_embed.projection',
        'patch_embed.norm': 'patch_embed.norm',
        'absolute_pos_embed': 'absolute_pos_embed',
        'layers.{i}.blocks.{j}.norm1': f'{_BLOCK}.norm1',
        'layers.{i}.blocks.{j}.attn': f'{_BLOCK}.attn.w_msa',
        'layers.{i}.blocks.{j}.norm2': f'{_BLOCK}.norm2',
        'layers.{i}.blocks.{j}.mlp.fc1': f'{_BLOCK}.ffn.layers.0.0',
        'layers.{i}.blocks.{j}.mlp.fc2': f'{_BLOCK}.ffn.layers.1',
        'layers.{i}.downsample': 'stages.{i}.downsample',
        'norm{i}': 'norm{i}',
        'norm': 'final_norm',
    },
    'torchvision': {
        'features.0.0': 'patch_embed.projection',
        'features.0.2': 'patch_embed.norm',
        'features.{i}.{j}.norm1': 'stages.{stage}.blocks.{j}.norm1',
        'features.{i}.{j}.attn': 'stages.{stage}.blocks.{j}.attn.w_msa',
        'features.{i}.{j}.norm2': 'stages.{stage}.blocks.{j}.norm2',
        'features.{i}.{j}.mlp.0': 'stages.{stage}.blocks.{j}.ffn.layers.0.0',
        'features.{i}.{j}.mlp.3': 'stages.{stage}.blocks.{j}.ffn.layers.1',
        'features.{i}.norm': 'stages.{stage}.downsample.norm',
        'features.{i}.reduction': 'stages.{stage}.downsample.reduction',
        'norm': 'final_norm',
    },
}
_MODULES['timm'] = {**_MODULES['microsoft'], 'layers.{i}.downsample': 'stages.{before}.downsample'}
_MODULES['mmpretrain'] = {
    'stages.{i}.downsample': 'stages.{before}.downsample',
    **_MODULES['mmdet'],
}
_HF_BLOCK = 'encoder.layers.{i}.blocks.{j}'
_MODULES['huggingface'] = {
    'embeddings.patch_embeddings.projection': 'patch_embed.projection',
    'embeddings.norm': 'patch_embed.norm',
    'embeddings.position_embeddings': 'absolute_pos_embed',
    f'{_HF_BLOCK}.layernorm_before': f'{_BLOCK}.norm1',
    f'{_HF_BLOCK}.layernorm_after': f'{_BLOCK}.norm2',
    # files, and transformers 4
    f'{_HF_BLOCK}.attention.self.query': f'{_BLOCK}.attn.w_msa.q',
    f'{_HF_BLOCK}.attention.self.key': f'{_BLOCK}.attn.w_msa.k',
    f'{_HF_BLOCK}.attention.self.value': f'{_BLOCK}.attn.w_msa.v',
    f'{_HF_BLOCK}.attention.self.continuous_position_bias_mlp': f'{_BLOCK}.attn.w_msa.cpb_mlp',
    f'{_HF_BLOCK}.attention.self': f'{_BLOCK}.attn.w_msa',
    f'{_HF_BLOCK}.attention.output.dense': f'{_BLOCK}.attn.w_msa.proj',
    f'{_HF_BLOCK}.intermediate.dense': f'{_BLOCK}.ffn.layers.0.0',
    f'{_HF_BLOCK}.output.dense': f'{_BLOCK}.ffn.layers.1',
    # modules of transformers 5
    f'{_HF_BLOCK}.attention.q_proj': f'{_BLOCK}.attn.w_msa.q',
    f'{_HF_BLOCK}.attention.k_proj': f'{_BLOCK}.attn.w_msa.k',
    f'{_HF_BLOCK}.attention.v_proj': f'{_BLOCK}.attn.w_msa.v',
    f'{_HF_BLOCK}.attention.o_proj': f'{_BLOCK}.attn.w_msa.proj',
    f'{_HF_BLOCK}.attention.relative_position_bias': f'{_BLOCK}.attn.w_msa',
    f'{_HF_BLOCK}.mlp.fc1': f'{_BLOCK}.ffn.layers.0.0',
    f'{_HF_BLOCK}.mlp.fc2': f'{_BLOCK}.ffn.layers.1',
    'encoder.layers.{i}.downsample': 'stages.{i}.downsample',
    'hidden_states_norms.stage{i}': 'norm{before}',
    'layernorm': 'final_norm',
}

# Names that may come out of the tables; q, k and v are merged afterwards.
_PARAMETER = re.compile(
    r'(?:patch_embed\.projection|patch_embed\.norm|norm\d+|final_norm)\.(?:weight|bias)'
    r'|absolute_pos_embed'
    r'|stages\.\d+\.downsample\.(?:norm\.(?:weight|bias)|reduction\.weight)'
    r'|stages\.\d+\.blocks\.\d+\.(?:'
    r'(?:norm1|norm2|attn\.w_msa\.(?:qkv|q|k|v|proj|cpb_mlp\.0|cpb_mlp\.2)'
    r'|ffn\.layers\.0\.0|ffn\.layers\.1)\.(?:weight|bias)'
    r'|attn\.w_msa\.(?:relative_position_bias_table|logit_scale|q_bias|v_bias))'
)

# Constants that a model makes for its own window size.
_BUFFERS = ('relative_position_index', 'relative_coords_table', 'attn_mask')


def _module_patterns(family: str) -> list[tuple[re.Pattern, str]]:
    patterns = []
    for theirs, ours in _MODULES[family].items():
        pattern = (
            re.escape(theirs).replace(r'\{i\}', r'(?P<i>\d+)').replace(r'\{j\}', r'(?P<j>\d+)')
        )
        patterns.append((re.compile(rf'{pattern}(?P<rest>(?:\..+)?)'), ours))
    return patterns


def _rename(name: str, patterns: list[tuple[re.Pattern, str]]) -> str | None:
    for pattern, ours in patterns:
        match = pattern.fullmatch(name)
        if match:
            numbers = {k: int(v) for k, v in match.groupdict().items() if k != 'rest'}
            if 'i' in numbers:
                numbers.update(before=numbers['i'] - 1, stage=(numbers['i'] - 1) // 2)
            renamed = ours.format(**numbers) + match['rest']
            return renamed if _PARAMETER.fullmatch(renamed) else None
    return None


# ----------------------------------------------------------------------------- converting tensors


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
    state_dict, wrapper = _unwrap(checkpoint)
    weights = ConvertedWeights(detect_format(state_dict), {}, {}, [], [], [])
    if wrapper is not None and 'ema' in wrapper:
        weights.notes.append(f'weights taken from the key {wrapper!r} of the checkpoint')
    family, is_v2 = weights.format.replace('-v2', ''), weights.format.endswith('-v2')
    patterns = _module_patterns(family)
    names = _short_names(state_dict, _locate_backbone(state_dict)[1])

    for name, key in names.items():
        renamed = _rename(name, patterns)
        if name.endswith(_BUFFERS):
            weights.buffers.append(key)
        elif renamed is None or not _is_weights(state_dict[key]):
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


def infer_architecture(state_dict: Mapping) -> dict:
    """Read the size of a Swin off its weights.

    Args:
        state_dict: Under the names of `SwinBackbone`.

    Returns:
        `arch` (embed_dims, depths and num_heads, and version=2 for V2, as `SwinBackbone` takes it)
        and `window_size`, the side of the largest bias table's window in tokens, None for V2.
    """
    depths, heads, sides = Counter(), {}, [0]
    for name, tensor in state_dict.items():
        match = re.fullmatch(r'stages\.(\d+)\.blocks\.\d+\.attn\.w_msa\.(.+)', name)
        if match and match[2] == 'qkv.weight':
            depths[int(match[1])] += 1
        elif match and match[2] in ('relative_position_bias_table', 'logit_scale'):
            is_table = match[2] == 'relative_position_bias_table'
            heads[int(match[1])] = tensor.shape[1 if is_table else 0]
            sides.append((round(tensor.shape[0] ** 0.5) + 1) // 2 if is_table else 0)
    arch = dict(
        embed_dims=state_dict['stages.0.blocks.0.attn.w_msa.qkv.weight'].shape[1],
        depths=tuple(depths[i] for i in sorted(depths)),
        num_heads=tuple(heads[i] for i in sorted(heads)),
    )
    if any(name.endswith('.logit_scale') for name in state_dict):
        arch['version'] = 2
    return dict(arch=arch, window_size=max(sides) or None)


# ---------------------------------------------------------------------------- fitting to a model


@dataclass
class MatchedWeights:
    """Weights fitted to one model, and an account of every tensor of file and model.

    Attributes:
        format: Where they came from, as `detect_format` names it.
        state_dict: What to load into the model with `strict=False`.
        loaded: Parameters of the model that the file holds as they are.
        resized: Parameters that were interpolated, with a text of both shapes.
        reinitialised: Parameters that keep the model's own values, with the reason.
        unused: Keys of the file that went nowhere.
        buffers: Keys of the file that the model recomputes.
        notes: Decisions to know of.
    """

    format: str
    state_dict: dict[str, Tensor]
    loaded: list[str]
    resized: dict[str, str]
    reinitialised: dict[str, str]
    unused: list[str]
    buffers: list[str]
    notes: list[str]

    def report(self) -> str:
        """Account for every tensor in a few lines of text."""
        total = len(self.loaded) + len(self.resized) + len(self.reinitialised)
        lines = [
            f'Swin weights in {self.format} format: {total - len(self.reinitialised)} of the '
            f"model's {total} parameters set.",
            f'  loaded unchanged in size: {len(self.loaded)}',
            _listing('resized', [f'{k} {v}' for k, v in self.resized.items()]),
            _listing('re-initialised', [f'{k} ({v})' for k, v in self.reinitialised.items()]),
            _listing('unused from the file', self.unused),
            f'  recomputed by the model (buffers of the file): {len(self.buffers)}',
        ]
        return '\n'.join(lines + [f'  note: {note}' for note in self.notes])


def _listing(title: str, entries: list[str]) -> str:
    return '\n      '.join([f'  {title}: {len(entries)}', *entries])


def _resize_square(grid: Tensor, num_positions: int) -> Tensor | None:
    """Interpolate (S * S, C) to `num_positions` rows; None where either is no square.

    Bicubic, as Microsoft's `load_pretrained` does for position biases and embeddings
    (https://github.com/microsoft/Swin-Transformer, utils.py).
    """
    old, new = round(len(grid) ** 0.5), round(num_positions**0.5)
    if old**2 != len(grid) or new**2 != num_positions:
        return None
    image = grid.float().T.reshape(1, -1, old, old)
    resized = F.interpolate(image, size=(new, new), mode='bicubic', align_corners=False)
    return resized.flatten(2)[0].T.to(grid.dtype).contiguous()


def _fit(name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
    """Resize `tensor` to `shape` where its meaning allows it."""
    if name.endswith('.relative_position_bias_table') and tensor.shape[1:] == shape[1:]:
        return _resize_square(tensor, shape[0])
    if name == 'absolute_pos_embed' and tensor.shape[2:] == shape[2:]:
        resized = _resize_square(tensor[0], shape[1])
        return None if resized is None else resized[None]
    return None


def _blocks(state_dict: Mapping) -> set[tuple[int, int]]:
    matches = (re.match(r'stages\.(\d+)\.blocks\.(\d+)\.', name) for name in state_dict)
    return {(int(match[1]), int(match[2])) for match in matches if match}


def match_to_model(converted: ConvertedWeights, model_state: Mapping) -> MatchedWeights:
    """Fit converted weights to a model and account for every tensor.

    Position bias tables of another window size and absolute position embeddings of another image
    size are interpolated bicubically. Output norms count only where the file is a dense-prediction
    backbone, since classifiers have none but the last.

    Args:
        model_state: `state_dict()` of the `SwinBackbone` (or mmdet's `SwinTransformer`).

    Raises:
        SwinWeightsError: If the file sets less than 95 % of the model's parameters, or has more
            blocks in a stage than the model.
    """
    weights = converted.state_dict
    matched = MatchedWeights(
        converted.format,
        {},
        [],
        {},
        {},
        list(converted.unused),
        converted.buffers,
        list(converted.notes),
    )
    for name, parameter in model_state.items():
        if name.endswith(_BUFFERS):
            continue
        if name not in weights:
            matched.reinitialised[name] = 'not in the file'
        elif weights[name].shape == parameter.shape:
            matched.state_dict[name] = weights[name]
            matched.loaded.append(name)
        else:
            shapes = (
                f'{tuple(weights[name].shape)} in the file, {tuple(parameter.shape)} in the model'
            )
            resized = _fit(name, weights[name], parameter.shape)
            if resized is None:
                matched.reinitialised[name] = shapes
            else:
                matched.state_dict[name] = resized
                matched.resized[name] = shapes
    for name, keys in converted.sources.items():
        if name not in matched.state_dict:
            matched.unused += [key for key in keys if key not in matched.unused]

    output_norm = re.compile(r'norm\d+\.')
    is_classifier = not any(name.startswith('norm0.') for name in weights)
    counted = [
        name
        for name in model_state
        if not name.endswith(_BUFFERS) and not (is_classifier and output_norm.match(name))
    ]
    num_set = sum(name in matched.state_dict for name in counted)
    stages = {stage for stage, _ in _blocks(model_state)}
    surplus = {
        (stage, block)
        for stage, block in _blocks(weights) - _blocks(model_state)
        if stage in stages
    }
    if num_set < 0.95 * len(counted) or surplus:
        missing = [name for name in counted if name in matched.reinitialised]
        reasons = '; '.join(f'{name}: {matched.reinitialised[name]}' for name in missing[:5])
        raise SwinWeightsError(
            f'The weights do not fit the model: {num_set} of its {len(counted)} parameters are '
            f'in the file, and {len(surplus)} blocks of the file have no place in the model. '
            f'The file is of {converted.format} format with {infer_architecture(weights)}; the '
            f'model has {_describe(model_state)}. '
            + (f'First of {len(missing)} parameters not set: {reasons}. ' if missing else '')
            + 'Use weights of the same architecture, or set arch to that of the file.'
        )
    return matched


def _describe(model_state: Mapping) -> str:
    try:
        return str(infer_architecture(model_state))
    except KeyError:
        return f'no Swin stages, but {list(model_state)[:5]}'


# -------------------------------------------------------------------------- heads of a detector

# Layers whose rows belong to classes: rows per class, spread of fresh weights. mmdet initialises
# fc_cls and fc_reg from these normal distributions, conv_logits by Kaiming's for its fan-out.
_CLASS_LAYERS = {'fc_cls': (1, 0.01), 'fc_reg': (4, 0.001), 'conv_logits': (1, None)}
_CLASS_LAYER = re.compile(
    r'(?:.+\.)?(?:bbox_head(?:\.\d+)?\.(?:fc_cls|fc_reg)|mask_head(?:\.\d+)?\.conv_logits)'
    r'\.(?:weight|bias)'
)


class RemappedHeads(NamedTuple):
    """A detector's state dict for other classes.

    Attributes:
        copied: Target classes whose rows come from the source.
        fresh: Target classes that start anew.
        dropped: Source classes that the target does not have.
    """

    state_dict: dict[str, Tensor]
    copied: list[str]
    fresh: list[str]
    dropped: list[str]


def remap_class_layers(
    state_dict: Mapping, source_classes: Sequence[str], target_classes: Sequence[str]
) -> RemappedHeads:
    """Rearrange a Mask R-CNN's class-dependent layers for another list of classes.

    Classes of the same name in both lists keep their rows, in the target's order; rows of the other
    target classes are drawn as mmdet initialises them. The background of `fc_cls`, last in mmdet
    2.x and 3.x, is kept. Class-agnostic layers (4 rows of `fc_reg`, 1 of `conv_logits`, for several
    classes) and all other tensors are passed through.

    Args:
        state_dict: Of a detector with `bbox_head.fc_cls` (C + 1 rows), `bbox_head.fc_reg`
            (4 C or 4) and, optionally, `mask_head.conv_logits` (C or 1); also of cascades, whose
            heads are numbered.

    Raises:
        SwinWeightsError: If a name occurs twice in a list, there are no such layers, or their rows
            do not agree with `source_classes`.
    """
    for title, classes in (('source', source_classes), ('target', target_classes)):
        repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
        if repeated or not classes:
            raise SwinWeightsError(
                f'The {title} classes {list(classes)} must be unique names, at '
                f'least one; repeated: {repeated}.'
            )
    keys = [key for key in state_dict if _CLASS_LAYER.fullmatch(key)]
    if not keys:
        raise SwinWeightsError(
            'The state dict has no class-dependent layers (bbox_head.fc_cls, bbox_head.fc_reg, '
            f'mask_head.conv_logits) to remap. Its keys begin with {list(state_dict)[:5]}.'
        )
    remapped = dict(state_dict)
    for key in keys:
        remapped[key] = _remap_rows(key, state_dict[key], source_classes, target_classes)
    return RemappedHeads(
        remapped,
        copied=[name for name in target_classes if name in source_classes],
        fresh=[name for name in target_classes if name not in source_classes],
        dropped=[name for name in source_classes if name not in target_classes],
    )


def _remap_rows(
    key: str, tensor: Tensor, source_classes: Sequence[str], target_classes: Sequence[str]
) -> Tensor:
    layer, leaf = key.split('.')[-2:]
    per_class, std = _CLASS_LAYERS[layer]
    num_background = int(layer == 'fc_cls')
    if layer != 'fc_cls' and len(tensor) == per_class and len(source_classes) > 1:
        return tensor  # class-agnostic
    expected = per_class * (len(source_classes) + num_background)
    if len(tensor) != expected:
        hint = ''
        if len(tensor) == per_class * (len(source_classes) + 1):
            hint = (
                ' One class more suggests a model of mmdet 1.x, with the background first: '
                'convert it with mmdet 2.x (tools/model_converters/upgrade_model_version.py).'
            )
        raise SwinWeightsError(
            f'{key} has {len(tensor)} rows, but {len(source_classes)} source '
            f'classes ask for {expected}.{hint}'
        )

    if std is None:
        std = (2 / len(target_classes)) ** 0.5
    num_rows = per_class * (len(target_classes) + num_background)
    rows = tensor.new_zeros(num_rows, *tensor.shape[1:])
    if leaf == 'weight':
        rows.normal_(std=std)
    rows = rows.unflatten(0, (-1, per_class))  # (classes, rows per class, ...)
    source = tensor.unflatten(0, (-1, per_class))
    for i, name in enumerate(target_classes):
        if name in source_classes:
            rows[i] = source[list(source_classes).index(name)]
    if num_background:
        rows[-1] = source[-1]
    return rows.flatten(0, 1)
