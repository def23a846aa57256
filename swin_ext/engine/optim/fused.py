"""Fused optimizers: an update of all parameters by one kernel, where PyTorch has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn

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
    reasons = [
        f'PyTorch {torch.__version__} does not serve {dtype} on {device.type}: {reason}'
        for device, dtype in sorted(kinds, key=str)
        if (reason := _refusal(optimizer['type'], device, dtype)) is not None
    ]
    # PyTorch's kernel for CPUs walks over memory, and is wrong where state lies otherwise.
    reasons += [
        f'{name} is a part of a larger tensor'
        for name, parameter in model.named_parameters()
        if torch.empty_like(parameter).stride() != parameter.stride()
    ]
    if not reasons:
        return optimizer
    print_log(
        f'optim_wrapper.optimizer.fused: {optimizer["type"]} is not fused, since {reasons[0]}',
        'current',
    )
    optimizer = type(optimizer)(optimizer)
    del optimizer['fused']
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
    optimizer its counts of steps on the GPU, where each update reads them one by one; and its fused
    kernel for CPUs takes moments for ones that lie in memory as the parameter does (2.11 too).

    Args:
        optimizer: That is going to load it.
        state_dict: Of its `state_dict`; not changed.
    """
    saved_groups, own_groups = state_dict['param_groups'], optimizer.param_groups
    groups = [
        {**saved, **{key: own[key] for key in HOW if key in own}}
        for saved, own in zip(saved_groups, own_groups)
    ]
    groups += saved_groups[len(groups) :]  # of another model, which PyTorch refuses
    parameters = {
        index: (parameter, own.get('fused') or own.get('capturable'))
        for saved, own in zip(saved_groups, own_groups)
        for index, parameter in zip(saved['params'], own['params'])
    }
    state = dict(state_dict['state'])
    for index in parameters.keys() & state.keys():
        state[index] = {
            key: _placed(key, value, *parameters[index]) for key, value in state[index].items()
        }
    return dict(state_dict, param_groups=groups, state=state)


def _placed(key: str, value: Any, parameter: Tensor, steps_on_device: bool) -> Any:
    if not isinstance(value, Tensor):
        return value
    if key == 'step':
        return value if steps_on_device else value.cpu()
    if value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
    return value


def heeds_flag(optimizer: torch.optim.Optimizer) -> bool:
    """Whether `step` leaves the update out where the tensor `found_inf` of the optimizer is 1.

    The way of `torch.amp.GradScaler` with fused optimizers. SGD's is left out: a first update that
    is skipped leaves it a momentum of what was in the memory.
    """
    return isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)) and all(
        group.get('fused') for group in optimizer.param_groups
    )
