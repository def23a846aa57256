"""Fits converted Swin weights to a model, and accounts for every tensor of both."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from swin_ext.checkpoint.matching import CONSTANTS
from swin_ext.models.weights.recognition import SwinWeightsError
from swin_ext.models.weights.swin import ConvertedWeights


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
        summary = (
            f'Swin weights in {self.format} format: {total - len(self.reinitialised)} of the '
            f"model's {total} parameters set"
        )
        if not (self.resized or self.reinitialised or self.unused or self.buffers or self.notes):
            return f'{summary}, all as they are in the file, which has no others.'
        lines = [
            f'{summary}.',
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
        if name.endswith(CONSTANTS):
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
        if not name.endswith(CONSTANTS) and not (is_classifier and output_norm.match(name))
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
