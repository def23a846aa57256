"""Lets `load_from` take Swin detectors of any origin and of other classes."""

from __future__ import annotations

from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from swin_ext.engine.hooks.class_check_hook import checkpoint_classes
from swin_ext.models.swin import SwinBackbone
from swin_ext.models.weights.swin import (
    SwinWeightsError,
    convert_swin_state_dict,
    match_to_model,
    remap_class_layers,
)


@HOOKS.register_module()
class AdaptCheckpointHook(Hook):
    """Fit the checkpoint of `load_from` to a detector that is to be fine-tuned.

    The backbone's weights are converted from whatever format they have. Class-dependent layers of a
    Mask R-CNN keep the rows of classes that both class lists name; the others start anew. What is
    tested or resumed must fit as it is and is left alone.

    Raises:
        SwinWeightsError: If the file has no Swin, or one of another architecture.
    """

    priority = 'VERY_HIGH'  # EMAHook, for one, takes the weights as it finds them

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if not isinstance(runner._train_loop, BaseLoop) or runner._resume:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if isinstance(getattr(model, 'backbone', None), SwinBackbone):
            checkpoint['state_dict'] = convert_detector(
                checkpoint['state_dict'], model.backbone, runner.logger
            )
        source = checkpoint_classes(checkpoint)
        target = runner.train_loop.dataloader.dataset.metainfo.get('classes')
        if source and target and source != list(target):
            checkpoint['state_dict'] = remap_heads(
                checkpoint['state_dict'], source, list(target), runner.logger
            )


def convert_detector(state_dict: dict, backbone: SwinBackbone, logger) -> dict:
    """Replace the backbone's entries, of any format, by those of `SwinBackbone`."""
    converted = convert_swin_state_dict(state_dict)
    matched = match_to_model(converted, backbone.state_dict())
    print_log(matched.report(), logger)
    used = {key for keys in converted.sources.values() for key in keys} | set(converted.buffers)
    adapted = {key: tensor for key, tensor in state_dict.items() if key not in used}
    adapted.update({f'backbone.{name}': t for name, t in matched.state_dict.items()})
    # Buffers of another window size must not be loaded; the model has its own.
    adapted.update({f'backbone.{name}': t for name, t in backbone.named_buffers()})
    return adapted


def remap_heads(state_dict: dict, source: list[str], target: list[str], logger) -> dict:
    """Keep the rows of classes that both lists name, if the file has class-dependent layers."""
    try:
        remapped = remap_class_layers(state_dict, source, target)
    except SwinWeightsError as error:
        print_log(f'Class-dependent layers are not remapped: {error}', logger, 30)
        return state_dict
    for name, tensor in remapped.state_dict.items():
        if tensor is not state_dict[name]:
            broadcast(tensor)  # ranks may draw differently, and DDP does not compare weights again
    print_log(
        f'Class-dependent layers: {len(remapped.copied)} classes kept {remapped.copied}, '
        f'{len(remapped.fresh)} re-initialised {remapped.fresh}, {len(remapped.dropped)} of the '
        'checkpoint not used.',
        logger,
    )
    return remapped.state_dict
