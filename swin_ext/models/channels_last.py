"""Detectors whose maps lie channels-last in memory, behind the backbone."""

from __future__ import annotations

import torch
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn

from swin_ext.models.swin import SwinBackbone
from swin_ext.utils.errors import UserError

PARTS = ('neck', 'rpn_head', 'bbox_head', 'mask_head', 'roi_head')  # of detectors of MMDetection


class ChannelsLastError(UserError, TypeError):
    """A model that has no such parts."""


def use_channels_last(model: nn.Module) -> list[str]:
    """Let neck and heads of a detector work channels-last; in place.

    Convolutions of such weights give such maps, whatever they are given. `SwinBackbone`, whose maps
    are channels-last inside, hands them on as they are instead of as a copy. Operations of mmcv on
    RoIs read memory as if it were contiguous (https://github.com/open-mmlab/mmcv, roi_align.cpp):
    they get a contiguous copy of a map, once. Values are the same up to rounding. Doing it again
    changes nothing.

    Returns:
        Names of the parts.

    Raises:
        ChannelsLastError: If the model has none of them.
    """
    parts = [name for name in PARTS if isinstance(getattr(model, name, None), nn.Module)]
    if not parts:
        raise ChannelsLastError(
            f'channels_last=True: {type(model).__name__} has none of {", ".join(PARTS)}, which are '
            'those of detectors of MMDetection. Take it out.'
        )
    for name in parts:
        getattr(model, name).to(memory_format=torch.channels_last)
    if isinstance(model.backbone, SwinBackbone):
        model.backbone.channels_last = True
    for module in model.modules():
        if isinstance(module, BaseRoIExtractor) and not hasattr(module, '_takes_contiguous'):
            module._takes_contiguous = module.register_forward_pre_hook(_make_contiguous)
    return parts


def _make_contiguous(module: nn.Module, inputs: tuple) -> tuple:
    maps, *others = inputs
    return tuple(_contiguous(each) for each in maps), *others


def _contiguous(x: Tensor) -> Tensor:
    """A contiguous copy, which lives as long as `x`: box and mask heads read the same maps."""
    if x.is_contiguous():
        return x
    if not hasattr(x, '_contiguous_copy'):
        x._contiguous_copy = x.contiguous()
    return x._contiguous_copy
