"""Lets `load_from` take detectors and segmentors of other code and of other classes."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from swin_ext.checkpoint.matching import ADAPTATION, CONSTANTS, Adaptation
from swin_ext.engine.hooks.class_check_hook import checkpoint_classes
from swin_ext.models.swin import SwinBackbone
from swin_ext.models.weights.class_layers import find_class_layers, remap_class_layers
from swin_ext.models.weights.fitting import match_to_model
from swin_ext.models.weights.swin import convert_swin_state_dict
from swin_ext.models.weights.torchvision_detectors import (
    convert_torchvision_detector,
    is_torchvision_detector,
)


@HOOKS.register_module()
class AdaptCheckpointHook(Hook):
    """Fit the checkpoint of `load_from` to a model that is to be fine-tuned.

    A Mask R-CNN of torchvision gets mmdet's names. A Swin backbone's weights are converted from
    whatever format they have. Class-dependent layers of any head keep the rows of classes that both
    class lists name; the others start anew. What is tested or resumed must fit as it is and is left
    alone. The account of it is left in the checkpoint, for the runner's report on the loading.

    Raises:
        SwinWeightsError: If the file has no Swin, or one of another architecture.
    """

    priority = 'VERY_HIGH'  # EMAHook, for one, takes the weights as it finds them

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not isinstance(runner._train_loop, BaseLoop) or runner._resume:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        adaptation = Adaptation()
        state_dict = checkpoint['state_dict']
        if is_torchvision_detector(state_dict):
            state_dict = convert_torchvision_detector(state_dict)
            adaptation.notes.append(
                'Names of torchvision became those of mmdet; the background has its scores last, '
                'and no boxes and masks.'
            )
        if isinstance(getattr(model, 'backbone', None), SwinBackbone):
            state_dict = convert_backbone(state_dict, model.backbone, adaptation)
        target = runner.train_loop.dataloader.dataset.metainfo.get('classes')
        if target:
            state_dict = adapt_classes(
                state_dict, model, checkpoint_classes(checkpoint), list(target), adaptation
            )
        checkpoint['state_dict'] = state_dict
        checkpoint[ADAPTATION] = adaptation


def convert_backbone(state_dict: dict, backbone: SwinBackbone, adaptation: Adaptation) -> dict:
    """Replace the backbone's entries, of any format, by those of `SwinBackbone`."""
    converted = convert_swin_state_dict(state_dict)
    matched = match_to_model(converted, backbone.state_dict())
    used = {key for keys in converted.sources.values() for key in keys} | set(converted.buffers)
    # The rest goes to the model by its own names, which tell whether it is used.
    matched.unused = [key for key in matched.unused if key in used]
    adaptation.notes.append(matched.report())
    adapted = {key: tensor for key, tensor in state_dict.items() if key not in used}
    adapted.update({f'backbone.{name}': t for name, t in matched.state_dict.items()})
    # Constants of another window size must not be loaded; the model has its own.
    constants = {n: t for n, t in backbone.state_dict().items() if n.endswith(CONSTANTS)}
    adapted.update({f'backbone.{name}': t for name, t in constants.items()})
    return adapted


def adapt_classes(
    state_dict: dict,
    model: nn.Module,
    source: Sequence[str] | None,
    target: Sequence[str],
    adaptation: Adaptation,
) -> dict:
    """Keep the rows of classes that both lists name."""
    layers = find_class_layers(model, len(target))
    if source is None:
        if any(key in state_dict for key in layers):
            adaptation.notes.append(
                'The checkpoint does not name its classes: layers of as many classes are taken to '
                f'have those of the data set, in its order {list(target)}.'
            )
        return state_dict
    if list(source) == list(target):
        return state_dict
    remapped = remap_class_layers(state_dict, model.state_dict(), layers, source, target)
    adaptation.reinitialised.update(remapped.reinitialised)
    adaptation.notes.append(f'Classes: {remapped.report()}.')
    return remapped.state_dict
