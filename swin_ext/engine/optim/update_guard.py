"""Optimizer wrappers that can leave updates out which would spoil the weights."""

from __future__ import annotations

import functools
from collections import defaultdict

import torch
from mmengine.dist import all_reduce
from mmengine.optim import ApexOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor


class UpdateGuard:
    """Mixin for an `OptimWrapper`: while it guards, no NaN and no infinity reaches the weights.

    The backward pass of a non-finite loss is run, and its gradients are thrown away: to leave it
    out, the host would have to wait for the forward pass before it could hand the backward pass to
    the device, and ranks would have to agree on it meanwhile. Gradients are looked at once an
    update, after they have been summed over ranks and accumulated. Under loss scaling they may
    overflow, and the scaler leaves that update out itself.

    Attributes:
        guards_updates: Whether it guards; `NonFiniteLossHook` switches it on.
        nonfinite: What was NaN or infinite on any rank in the last iteration: 'loss', 'gradients'
            or None.
    """

    guards_updates = False
    nonfinite: str | None = None
    _discard = False  # the gradients gathered since the last update

    def backward(self, loss: Tensor, **kwargs) -> None:
        if not self.guards_updates:
            super().backward(loss, **kwargs)
            return
        flag = loss.detach().isfinite().logical_not().float()  # ()
        all_reduce(flag, op='max')
        flag = flag.to('cpu', non_blocking=True)
        copied = None
        if loss.is_cuda:
            copied = torch.cuda.Event()
            copied.record()
        super().backward(loss, **kwargs)
        if copied:
            copied.synchronize()
        self.nonfinite = 'loss' if flag else None
        self._discard |= bool(flag)

    def step(self, **kwargs) -> None:
        if self.guards_updates and not self._discard and not self._scales_loss():
            if self._gradients_are_nonfinite():
                self.nonfinite, self._discard = 'gradients', True
        if not self._discard:
            super().step(**kwargs)
        self._discard = False

    def _scales_loss(self) -> bool:
        if isinstance(self, ApexOptimWrapper):
            return True
        scaler = getattr(self, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    def _gradients_are_nonfinite(self) -> bool:
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        gradients = [
            _values(parameter.grad) for parameter in parameters if parameter.grad is not None
        ]
        device = parameters[0].device
        # Norms are read off fast, but overflow where the gradients do not yet.
        return _on_any_rank(have_nonfinite_norm(gradients), device) and _on_any_rank(
            [gradient.isfinite().all().logical_not() for gradient in gradients], device
        )


def have_nonfinite_norm(tensors: list[Tensor]) -> list[Tensor]:
    """Flags, (): for tensors of a device and type, whether an L2 norm is NaN or infinite.

    These are read by few kernels, as in `torch.nn.utils.clip_grad_norm_`.
    """
    alike = defaultdict(list)
    for tensor in tensors:
        alike[tensor.device, tensor.dtype].append(tensor)
    return [
        torch.stack(torch._foreach_norm(group)).isfinite().all().logical_not()
        for group in alike.values()
    ]


def _on_any_rank(flags: list[Tensor], device: torch.device) -> bool:
    flag = torch.zeros((), device=device)
    for each in flags:
        flag = torch.maximum(flag, each.to(flag))
    all_reduce(flag, op='max')
    return bool(flag)


def _values(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient


@OPTIM_WRAPPERS.register_module()
class GuardedOptimWrapper(UpdateGuard, OptimWrapper):
    """mmengine's `OptimWrapper` with an `UpdateGuard`; `SwinExtRunner` makes it by itself."""


@functools.cache
def guarded(wrapper: type[OptimWrapper]) -> type[OptimWrapper]:
    """The class `wrapper` with an `UpdateGuard`."""
    if issubclass(wrapper, UpdateGuard):
        return wrapper
    if wrapper is OptimWrapper:
        return GuardedOptimWrapper
    return type(f'Guarded{wrapper.__name__}', (UpdateGuard, wrapper), {'__doc__': wrapper.__doc__})
