"""Lets `load_from` take detectors and segmentors of other code and of other classes."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn

from swin_ext.checkpoint.matching import ADAPTATION, Adaptation
from swin_ext.engine.hooks.class_check_hook import checkpoint_classes
from swin_ext.models.swin import SwinBackbone
from swin_ext.models.weights.class_layers import find_class_layers, remap_class_layers
from swin_ext.models.weights.whole_models import convert_backbone, convert_heads


@HOOKS.register_module()
class AdaptCheckpointHook(Hook):
    """Fit the checkpoint of `load_from` to a model that is to be fine-tuned.

    A Mask R-CNN of torchvision and a Mask2Former of its authors get mmdet's names. A Swin
    backbone's weights are converted from whatever format they have. Class-dependent layers of any
    head keep the rows of classes that both class lists name; the others start anew. What is tested
    or resumed must fit as it is and is left alone. The account of it is left in the checkpoint, for
    the runner's report on the loading.

    Raises:
        SwinWeightsError: If the file has no Swin, or one of another architecture.
    """

    priority = 'VERY_HIGH'  # EMAHook, for one, takes the weights as it finds them

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not isinstance(runner._train_loop, BaseLoop) or runner._resume:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state_dict, notes = convert_heads(checkpoint['state_dict'])
        adaptation = Adaptation(notes)
        if isinstance(getattr(model, 'backbone', None), SwinBackbone):
            state_dict, matched = convert_backbone(state_dict, model.backbone.state_dict())
            adaptation.notes.append(matched.report())
        target = runner.train_loop.dataloader.dataset.metainfo.get('classes')
        if target:
            state_dict = adapt_classes(
                state_dict, model, checkpoint_classes(checkpoint), list(target), adaptation
            )
        checkpoint['state_dict'] = state_dict
        checkpoint[ADAPTATION] = adaptation


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
    adaptation.summary += [
        f'rows of {", ".join(classes)} {done}'
        for classes, done in ((remapped.kept, 'kept'), (remapped.fresh, 're-initialised'))
        if classes
    ]
    return remapped.state_dict
