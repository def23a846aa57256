"""Recognises where Swin weights come from, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from swin_ext.utils.errors import UserError


class SwinWeightsError(UserError, ValueError):
    """Weights that cannot be recognised or fitted to the model."""


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


def is_weights(value) -> bool:
    return isinstance(value, (Tensor, np.ndarray))


def unwrap(checkpoint: Mapping) -> tuple[Mapping, str | None]:
    """Return the state dict within `checkpoint` and the key it was found under."""
    for key in _WRAPPERS:
        if isinstance(checkpoint.get(key), Mapping):
            return checkpoint[key], key
    if any(is_weights(value) for value in checkpoint.values()):
        return checkpoint, None
    raise SwinWeightsError(
        f'The checkpoint has the keys {list(checkpoint)[:10]}: neither tensors nor any of '
        f'{", ".join(_WRAPPERS)}. Pass the state dict within it.'
    )


def locate_backbone(state_dict: Mapping) -> tuple[str, str]:
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


def short_names(state_dict: Mapping, prefix: str) -> dict[str, str]:
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
    family, prefix = locate_backbone(state_dict)
    names = short_names(state_dict, prefix)
    is_v2 = any(name.endswith('.logit_scale') for name in names)
    merging = [name for name in names if re.match(r'(layers|stages)\.\d+\.downsample\.', name)]
    if merging and not any(re.match(r'(layers|stages)\.0\.', name) for name in merging):
        if family == 'microsoft':
            family = 'timm'
        elif family == 'mmdet' and is_v2:
            family = 'mmpretrain'
    return f'{family}-v2' if is_v2 else family
