"""Fused optimizers: an update of all parameters by one kernel, where PyTorch has it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from torch import nn

# What an optimizer computes with, and not what it computes: a checkpoint does not decide it.
HOW = ('fused', 'foreach', 'capturable')


def where_served(optimizer: Mapping, model: nn.Module) -> Mapping:
    """The config of an optimizer, without `fused` where it is asked for and not to be had.

    PyTorch fuses on CUDA, and on CPUs from version 2.4 on; not every type of parameter, and not
    every optimizer. Each kind of parameter of the model is asked for by a step of one number. The
    log says why an optimizer is not fused.

    Args:
        optimizer: `optim_wrapper.optimizer` of a config.
        model: On the device where it is trained.
    """
    if not optimizer.get('fused') or 'type' not in optimizer:
        return optimizer
    kinds = {(parameter.device, parameter.dtype) for parameter in model.parameters()}
    for device, dtype in sorted(kinds, key=str):
        reason = _refusal(optimizer['type'], device, dtype)
        if reason is not None:
            print_log(
                f'optim_wrapper.optimizer.fused: {optimizer["type"]} is not fused, since PyTorch '
                f'{torch.__version__} does not serve {dtype} on {device.type}: {reason}',
                'current',
            )
            optimizer = type(optimizer)(optimizer)
            del optimizer['fused']
            break
    return optimizer


def _refusal(kind: str | type, device: torch.device, dtype: torch.dtype) -> str | None:
    """What PyTorch says of fusing an optimizer; None if it does."""
    kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    if kind is None:  # building it says so
        return None
    parameter = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    try:
        kind([parameter], lr=1e-3, fused=True).step()
    except (RuntimeError, TypeError, ValueError) as error:  # TypeError: it knows no `fused`
        return ' '.join(str(error).split())
    return None


def as_built(optimizer: torch.optim.Optimizer, state_dict: dict) -> dict:
    """A saved state of an optimizer, to be loaded into one that may be fused where it was not.

    PyTorch would take over from the state which implementation to use, and leave an unfused
    optimizer its counts of steps on the GPU, where each update reads them one by one.

    Args:
        optimizer: That is going to load it.
        state_dict: Of its `state_dict`; not changed.
    """
    groups = [
        {**saved, **{key: own[key] for key in HOW if key in own}}
        for saved, own in zip(state_dict['param_groups'], optimizer.param_groups)
    ]
    groups += state_dict['param_groups'][len(groups) :]  # of another model, which PyTorch refuses
    on_device = {
        index
        for group in groups
        if group.get('fused') or group.get('capturable')
        for index in group['params']
    }
    state = {
        index: {
            key: value.cpu()
            if key == 'step' and isinstance(value, torch.Tensor) and index not in on_device
            else value
            for key, value in values.items()
        }
        if isinstance(values, dict)
        else values
        for index, values in state_dict['state'].items()
    }
    return dict(state_dict, param_groups=groups, state=state)


def heeds_flag(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` leaves the update out where the tensor `found_inf` of the optimizer is 1.

    The way of `torch.amp.GradScaler` with fused optimizers. SGD's is left out: a first update that
    is skipped leaves it a momentum of what was in the memory.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) and all(
        group.get('fused') for group in optimizer.param_groups
    )
