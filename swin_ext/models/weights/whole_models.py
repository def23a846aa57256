"""Detectors and segmentors of other packages, heads and all, under the names of OpenMMLab's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from swin_ext.checkpoint.matching import CONSTANTS
from swin_ext.models.weights.detectron2_mask2former import (
    convert_detectron2_mask2former,
    is_detectron2_mask2former,
)
from swin_ext.models.weights.fitting import MatchedWeights, match_to_model
from swin_ext.models.weights.recognition import is_weights, unwrap
from swin_ext.models.weights.swin import convert_swin_state_dict
from swin_ext.models.weights.torchvision_detectors import (
    convert_torchvision_detector,
    is_torchvision_detector,
)

# Whether a state dict is of a kind, what renames it, and what to know of that.
_KINDS = (
    (
        is_torchvision_detector,
        convert_torchvision_detector,
        'Names of torchvision became those of mmdet; the background has its scores last, and no '
        'boxes and masks.',
    ),
    (
        is_detectron2_mask2former,
        convert_detectron2_mask2former,
        "Names of Mask2Former's authors became those of mmdet; the weight of 'no object' is that "
        'of the config.',
    ),
)


def convert_heads(checkpoint: Mapping) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parts of a model but for a Swin backbone, which `convert_backbone` sees to.

    Args:
        checkpoint: State dict of tensors or NumPy arrays, or a checkpoint that holds one. Names
            of OpenMMLab and those that are not known stay as they are.

    Returns:
        The state dict, and sentences on what was done.

    Raises:
        SwinWeightsError: If there are no weights in it.
    """
    state_dict = {
        key: torch.as_tensor(value) if is_weights(value) else value
        for key, value in unwrap(checkpoint)[0].items()
    }
    for is_of_kind, convert, note in _KINDS:
        if is_of_kind(state_dict):
            return convert(state_dict), [note]
    return state_dict, []


def convert_backbone(
    state_dict: Mapping[str, Tensor], backbone_state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], MatchedWeights]:
    """Replace a Swin backbone's entries, of any format, by those of `SwinBackbone`.

    Args:
        state_dict: Of a whole model, or of a backbone.
        backbone_state: `state_dict()` of the `SwinBackbone` to fit them to.

    Returns:
        The state dict, with the backbone's entries below `backbone.`, and an account of them.

    Raises:
        SwinWeightsError: If there is no Swin in it, or one of another architecture.
    """
    converted = convert_swin_state_dict(state_dict)
    matched = match_to_model(converted, backbone_state)
    used = {key for keys in converted.sources.values() for key in keys} | set(converted.buffers)
    # The rest goes to the model by its own names, which tell whether it is used.
    matched.unused = [key for key in matched.unused if key in used]
    adapted = {key: tensor for key, tensor in state_dict.items() if key not in used}
    adapted.update({f'backbone.{name}': t for name, t in matched.state_dict.items()})
    # Constants of another window size must not be loaded; the model has its own.
    constants = {n: t for n, t in backbone_state.items() if n.endswith(CONSTANTS)}
    adapted.update({f'backbone.{name}': t for name, t in constants.items()})
    return adapted, matched
