"""Torchvision's Faster and Mask R-CNN under the names of mmdet's.

Both compute the same function of the same feature maps (the box coders' weights 10, 10, 5, 5 are
mmdet's standard deviations 0.1, 0.1, 0.2, 0.2), but torchvision counts the background as class 0:
mmdet has its score last, and no boxes and masks for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_SCORES = 'roi_heads.box_predictor.cls_score'

_BOX_HEAD, _MASK_HEAD = 'roi_head.bbox_head', 'roi_head.mask_head'
# In the models of today; older files, which torchvision renames as it loads them, lack the
# numbers of the modules within a block, and count the layers of the mask head from 1.
_NAMES = [
    (r'backbone\.body\.(.+)', r'backbone.\1'),
    (r'backbone\.fpn\.inner_blocks\.(\d+)(?:\.0)?', r'neck.lateral_convs.\1.conv'),
    (r'backbone\.fpn\.inner_blocks\.(\d+)\.1', r'neck.lateral_convs.\1.bn'),
    (r'backbone\.fpn\.layer_blocks\.(\d+)(?:\.0)?', r'neck.fpn_convs.\1.conv'),
    (r'backbone\.fpn\.layer_blocks\.(\d+)\.1', r'neck.fpn_convs.\1.bn'),
    (r'rpn\.head\.cls_logits', 'rpn_head.rpn_cls'),
    (r'rpn\.head\.bbox_pred', 'rpn_head.rpn_reg'),
    (r'roi_heads\.box_head\.fc6', f'{_BOX_HEAD}.shared_fcs.0'),
    (r'roi_heads\.box_head\.fc7', f'{_BOX_HEAD}.shared_fcs.1'),
    (r'roi_heads\.box_head\.(\d+)\.0', rf'{_BOX_HEAD}.shared_convs.\1.conv'),
    (r'roi_heads\.box_head\.(\d+)\.1', rf'{_BOX_HEAD}.shared_convs.\1.bn'),
    (r'roi_heads\.box_head\.\d+', f'{_BOX_HEAD}.shared_fcs.0'),
    (r'roi_heads\.box_predictor\.cls_score', f'{_BOX_HEAD}.fc_cls'),
    (r'roi_heads\.box_predictor\.bbox_pred', f'{_BOX_HEAD}.fc_reg'),
    (r'roi_heads\.mask_head\.(\d+)\.0', rf'{_MASK_HEAD}.convs.\1.conv'),
    (r'roi_heads\.mask_head\.(\d+)\.1', rf'{_MASK_HEAD}.convs.\1.bn'),
    (r'roi_heads\.mask_predictor\.conv5_mask', f'{_MASK_HEAD}.upsample'),
    (r'roi_heads\.mask_predictor\.mask_fcn_logits', f'{_MASK_HEAD}.conv_logits'),
]
_OLD_MASK_LAYER = re.compile(r'roi_heads\.mask_head\.mask_fcn(\d+)')
_RPN_CONV = re.compile(r'rpn\.head\.conv(?:\.(\d+)\.0)?')


def is_torchvision_detector(state_dict: Mapping) -> bool:
    return f'{_SCORES}.weight' in state_dict


def convert_torchvision_detector(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a Faster or Mask R-CNN (with FPN, of either version), and move its background.

    Args:
        state_dict: `state_dict()` of torchvision's module. The backbone's own names are left to
            other converters; those of a ResNet are mmdet's.

    Returns:
        State dict of mmdet's `FasterRCNN` or `MaskRCNN`; names that are not known stay as they
        are.
    """
    modules = {key.rpartition('.')[0] for key in state_dict}
    num_rpn_convs = sum(bool(_RPN_CONV.fullmatch(module)) for module in modules)
    converted = {}
    for key, tensor in state_dict.items():
        module, _, leaf = key.rpartition('.')
        ours = f'{_rename(module, num_rpn_convs)}.{leaf}'
        if ours.startswith(f'{_BOX_HEAD}.fc_cls.'):
            tensor = torch.cat([tensor[1:], tensor[:1]])
        elif ours.startswith(f'{_BOX_HEAD}.fc_reg.'):
            tensor = tensor[4:]
        elif ours.startswith(f'{_MASK_HEAD}.conv_logits.'):
            tensor = tensor[1:]
        converted[ours] = tensor
    return converted


def _rename(module: str, num_rpn_convs: int) -> str:
    match = _OLD_MASK_LAYER.fullmatch(module)
    if match:
        return f'{_MASK_HEAD}.convs.{int(match[1]) - 1}.conv'
    match = _RPN_CONV.fullmatch(module)
    if match:  # mmdet numbers several
        return f'rpn_head.rpn_conv.{match[1]}.conv' if num_rpn_convs > 1 else 'rpn_head.rpn_conv'
    for theirs, ours in _NAMES:
        match = re.fullmatch(theirs, module)
        if match:
            return match.expand(ours)
    return module
