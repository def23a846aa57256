"""Mask2Former of its authors, on detectron2, under the names of mmdet's.

Both compute the same function. Names are those of https://github.com/facebookresearch/Mask2Former
at 9b0651c: `MSDeformAttnPixelDecoder` with `MultiScaleMaskedTransformerDecoder`, as in all
published files for images, on a Swin or on a ResNet of detectron2.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

_PIXELS, _QUERIES = 'panoptic_head.pixel_decoder', 'panoptic_head.transformer_decoder'
# Of modules within `sem_seg_head`; '#' stands for a number.
_HEAD = {
    'pixel_decoder.input_proj.#.0': f'{_PIXELS}.input_convs.#.conv',
    'pixel_decoder.input_proj.#.1': f'{_PIXELS}.input_convs.#.gn',
    'pixel_decoder.mask_features': f'{_PIXELS}.mask_feature',
    'predictor.decoder_norm': f'{_QUERIES}.post_norm',
    'predictor.query_feat': 'panoptic_head.query_feat',
    'predictor.static_query': 'panoptic_head.query_feat',  # in older files
    'predictor.query_embed': 'panoptic_head.query_embed',
    'predictor.level_embed': 'panoptic_head.level_embed',
    'predictor.input_proj.#': 'panoptic_head.decoder_input_projs.#',
    'predictor.class_embed': 'panoptic_head.cls_embed',
    'predictor.mask_embed.layers.0': 'panoptic_head.mask_embed.0',
    'predictor.mask_embed.layers.1': 'panoptic_head.mask_embed.2',
    'predictor.mask_embed.layers.2': 'panoptic_head.mask_embed.4',
}
_ENCODER = 'pixel_decoder.transformer.encoder.layers.#'
for _theirs, _ours in {
    'self_attn.sampling_offsets': 'self_attn.sampling_offsets',
    'self_attn.attention_weights': 'self_attn.attention_weights',
    'self_attn.value_proj': 'self_attn.value_proj',
    'self_attn.output_proj': 'self_attn.output_proj',
    'norm1': 'norms.0',
    'linear1': 'ffn.layers.0.0',
    'linear2': 'ffn.layers.1',
    'norm2': 'norms.1',
}.items():
    _HEAD[f'{_ENCODER}.{_theirs}'] = f'{_PIXELS}.encoder.layers.#.{_ours}'
for _theirs, _ours in {
    'cross_attention_layers.#.multihead_attn': 'cross_attn.attn',
    'cross_attention_layers.#.multihead_attn.out_proj': 'cross_attn.attn.out_proj',
    'cross_attention_layers.#.norm': 'norms.0',
    'self_attention_layers.#.self_attn': 'self_attn.attn',
    'self_attention_layers.#.self_attn.out_proj': 'self_attn.attn.out_proj',
    'self_attention_layers.#.norm': 'norms.1',
    'ffn_layers.#.linear1': 'ffn.layers.0.0',
    'ffn_layers.#.linear2': 'ffn.layers.1',
    'ffn_layers.#.norm': 'norms.2',
}.items():
    _HEAD[f'predictor.transformer_{_theirs}'] = f'{_QUERIES}.layers.#.{_ours}'

# The maps of higher resolution than the encoder's, numbered from the highest by detectron2 and from
# the lowest by mmdet.
_TOP_DOWN = re.compile(r'pixel_decoder\.(adapter|layer)_(\d+)(\.norm)?')
_TOP_DOWN_NAMES = dict(adapter='lateral_convs', layer='output_convs')

_RESNET = [
    (r'backbone\.stem\.conv1', 'backbone.conv1'),
    (r'backbone\.stem\.conv1\.norm', 'backbone.bn1'),
    (r'backbone\.res(\d)\.(\d+)\.conv(\d)', r'backbone.layer{stage}.\2.conv\3'),
    (r'backbone\.res(\d)\.(\d+)\.conv(\d)\.norm', r'backbone.layer{stage}.\2.bn\3'),
    (r'backbone\.res(\d)\.(\d+)\.shortcut', r'backbone.layer{stage}.\2.downsample.0'),
    (r'backbone\.res(\d)\.(\d+)\.shortcut\.norm', r'backbone.layer{stage}.\2.downsample.1'),
]
# The weight of 'no object' in the loss, which mmdet has from the config.
_CONSTANT = 'criterion.empty_weight'


def is_detectron2_mask2former(state_dict: Mapping) -> bool:
    return 'sem_seg_head.predictor.query_embed.weight' in state_dict


def convert_detectron2_mask2former(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Mask2Former.

    Args:
        state_dict: `state_dict()` of the authors' `MaskFormer`, the key `model` of a published
            file. The names of a Swin are left to `convert_swin_state_dict`; those of a ResNet
            become mmdet's, of `style='pytorch'`.

    Returns:
        State dict of mmdet's `Mask2Former`, without the constant `criterion.empty_weight`; names
        that are not known stay as they are.
    """
    levels = {match[2] for match in map(_TOP_DOWN.search, state_dict) if match}
    converted = {}
    for key, tensor in state_dict.items():
        if key != _CONSTANT:
            converted[_rename(key, len(levels))] = tensor
    return converted


def _rename(key: str, num_levels: int) -> str:
    # A parameter of the module itself, and those of `nn.MultiheadAttention`, whose names stay.
    if key == 'sem_seg_head.pixel_decoder.transformer.level_embed':
        return f'{_PIXELS}.level_encoding.weight'
    module, _, leaf = key.rpartition('.')
    for pattern, ours in _RESNET:
        match = re.fullmatch(pattern, module)
        if match:
            stage = int(match[1]) - 1 if match.lastindex else 0
            return f'{match.expand(ours).format(stage=stage)}.{leaf}'
    module = module.partition('sem_seg_head.')[2]
    match = _TOP_DOWN.fullmatch(module)
    if match:
        name, number = _TOP_DOWN_NAMES[match[1]], num_levels - int(match[2])
        return f'{_PIXELS}.{name}.{number}.{"gn" if match[3] else "conv"}.{leaf}'
    numbers = re.findall(r'(?<=\.)\d+(?=\.|$)', module)
    ours = _HEAD.get(module)
    if ours is None and numbers:
        number = numbers[0]
        template = re.sub(rf'(?<=\.){number}(?=\.|$)', '#', module, count=1)
        ours = _HEAD.get(template, '').replace('#', number)
    return f'{ours}.{leaf}' if ours else key
