"""Our Mask R-CNN with one switch on at a time, and what a step of a training is."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.profiler import record_function

from swin_ext.benchmarks.backbone_models import OWN
from swin_ext.benchmarks.detector_models import Detector
from swin_ext.engine.compiled_backbone import compile_backbone
from swin_ext.engine.host_copy import HostCopy
from swin_ext.engine.optim.update_guard import GuardedOptimWrapper
from swin_ext.models.channels_last import use_channels_last

ALL = 'all'  # of the switches that a run is to compare


def build_variants(
    switches: Sequence[str], cfg: ConfigDict, device: torch.device
) -> dict[str, tuple[Detector, frozenset[str]]]:
    """Detectors of the same weights: without any of `switches`, with each alone, and with all.

    Args:
        switches: Of `detector.SWITCHES`.
        cfg: Of a Mask R-CNN of MMDetection.
        device: Where they are built.

    Returns:
        By name, ours first, with the switches that are on.
    """
    variants = {OWN: frozenset()}
    variants.update((f'{OWN} {switch}', frozenset([switch])) for switch in switches)
    if len(switches) > 1:
        variants[f'{OWN} {ALL}'] = frozenset(switches)
    built, weights = {}, None
    for name, on in variants.items():
        model = _build(on, copy.deepcopy(cfg))
        weights = model.state_dict() if weights is None else weights
        model.load_state_dict(weights)
        model.to(device)
        if 'channels_last' in on:
            use_channels_last(model)
        if 'compiled' in on:
            compile_backbone(model, True, logging.getLogger(__name__))
        parts = (model.backbone, model.neck, model.rpn_head, model.roi_head)
        built[name] = Detector(model, None, None, parts), on
    return built


def _build(on: frozenset[str], cfg: ConfigDict) -> nn.Module:
    cfg.data_preprocessor.type = (
        'AsyncDetDataPreprocessor' if 'pinned' in on else 'DetDataPreprocessor'
    )
    if 'device_masks' in on:
        cfg.roi_head.mask_head.type = 'DeviceTargetMaskHead'
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def make_training_step(
    detector: Detector, on: frozenset[str], raw: dict, autocast: Callable
) -> Callable[[], None]:
    """A step from a batch of the loader to updated weights, and to losses as numbers.

    With the guard against updates that are not finite and a clipped norm of the gradients, as the
    shipped configs have them.
    """
    model = detector.model
    raw = copy.deepcopy(raw)
    on_cuda = next(model.parameters()).is_cuda
    if 'pinned' in on and on_cuda:
        raw['inputs'] = [image.pin_memory() for image in raw['inputs']]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, fused='fused' in on)
    wrapper = GuardedOptimWrapper(optimizer)
    wrapper.guards_updates = True
    under_way: list[HostCopy] = []

    def step() -> None:
        model.train()
        torch.manual_seed(0)  # draw the same samples for each model
        data = model.data_preprocessor(raw, True)
        with autocast():
            loss, figures = model.parse_losses(model(**data, mode='loss'))
        with record_function('part: backward'):
            wrapper.backward(loss)
        with record_function('part: optimizer'):
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10)
            wrapper.step()
        wrapper.zero_grad()
        figures = [norm, *figures.values()]
        if 'late_figures' not in on:
            for figure in figures:
                figure.item()
            return
        under_way.append(HostCopy(torch.stack([figure.detach().float() for figure in figures])))
        while len(under_way) > 1:  # of the step before this one
            under_way.pop(0).read()

    return step
