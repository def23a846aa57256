"""Optimizer wrappers that can leave updates out which would spoil the weights."""

from __future__ import annotations

import functools
from collections import defaultdict
from math import inf

import torch
from mmengine.dist import all_reduce
from mmengine.optim import ApexOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import Tensor

from swin_ext.engine.host_copy import HostCopy
from swin_ext.engine.optim.fused import as_built, heeds_flag


class UpdateGuard:
    """Mixin for an `OptimWrapper`: while it guards, no NaN and no infinity reaches the weights.

    The backward pass of a non-finite loss is run, and its gradients are thrown away: to leave it
    out, the host would have to wait for the forward pass before it could hand the backward pass to
    the device, and ranks would have to agree on it meanwhile. Gradients are looked at once an
    update, after they have been summed over ranks and accumulated. Under loss scaling they may
    overflow, and the scaler leaves that update out itself.

    The host waits for what is found of the gradients, unless it is late: a fused AdamW on CUDA is
    handed it on the device, and the host learns of it in the next iteration.

    Attributes:
        guards_updates: Whether it guards; `NonFiniteLossHook` switches it on.
        nonfinite: What was NaN or infinite on any rank in the last iteration, or, where `is_late`,
            in the one before it: 'loss', 'gradients' or None.
    """

    guards_updates = False
    nonfinite: str | None = None
    _discard = False  # the gradients gathered since the last update
    _loss_is_bad = False  # of the last iteration
    _gradient_flag: HostCopy | None = None  # of the last iteration, if it is late

    @property
    def is_late(self) -> bool:
        """Whether `nonfinite` is of the iteration before the last one."""
        parameter = self.optimizer.param_groups[0]['params'][0]
        return parameter.is_cuda and not self._scales_loss() and heeds_flag(self.optimizer)

    def backward(self, loss: Tensor, **kwargs) -> None:
        if not self.guards_updates:
            super().backward(loss, **kwargs)
            return
        flag = loss.detach().isfinite().logical_not().float()  # ()
        all_reduce(flag, op='max')
        flag = HostCopy(flag)
        super().backward(loss, **kwargs)
        late = self.last_iteration()
        self._gradient_flag = None
        self._loss_is_bad = bool(flag.read()[0])
        self.nonfinite = late if self.is_late else self.last_iteration()
        self._discard |= self._loss_is_bad

    def step(self, **kwargs) -> None:
        if self.guards_updates and not self._discard and not self._scales_loss():
            if self.is_late:
                flag = self._find_bad_gradients(inf)
                self._gradient_flag = HostCopy(flag)
                self._step_unless(flag, kwargs)
                return
            # L2 norms are read off twice as fast on CPUs, but overflow where gradients do not yet.
            if all(HostCopy(self._find_bad_gradients(order)).read()[0] for order in (2.0, inf)):
                self.nonfinite, self._discard = 'gradients', True
        if not self._discard:
            super().step(**kwargs)
        self._discard = False

    def last_iteration(self) -> str | None:
        """What was not finite in the last iteration; waits for the device where that is late."""
        if self._gradient_flag is not None and self._gradient_flag.read()[0]:
            return 'gradients'
        return 'loss' if self._loss_is_bad else None

    def load_state_dict(self, state_dict: dict) -> None:
        """Resume, whether the optimizer that was saved was fused or not."""
        super().load_state_dict(as_built(self.optimizer, state_dict))

    def _step_unless(self, flag: Tensor, kwargs: dict) -> None:
        self.optimizer.grad_scale, self.optimizer.found_inf = None, flag
        try:
            super().step(**kwargs)
        finally:
            del self.optimizer.grad_scale, self.optimizer.found_inf

    def _scales_loss(self) -> bool:
        if isinstance(self, ApexOptimWrapper):
            return True
        scaler = getattr(self, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()

    def _find_bad_gradients(self, order: float) -> Tensor:
        """1 where a gradient of any rank has a norm that is NaN or infinite, else 0; ()."""
        parameters = [p for group in self.optimizer.param_groups for p in group['params']]
        gradients = [
            _values(parameter.grad) for parameter in parameters if parameter.grad is not None
        ]
        flag = torch.zeros((), device=parameters[0].device)
        for each in have_nonfinite_norm(gradients, order):
            flag = torch.maximum(flag, each.to(flag))
        all_reduce(flag, op='max')
        return flag


def have_nonfinite_norm(tensors: list[Tensor], order: float) -> list[Tensor]:
    """Flags, (): for tensors of a device and type, whether a norm is NaN or infinite.

    These are read by few kernels, as in `torch.nn.utils.clip_grad_norm_`. The norm of order
    infinity, the greatest magnitude, is so where a number is, and there alone.
    """
    alike = defaultdict(list)
    for tensor in tensors:
        if tensor.numel():
            alike[tensor.device, tensor.dtype].append(tensor)
    return [
        torch.stack(torch._foreach_norm(group, ord=order)).isfinite().all().logical_not()
        for group in alike.values()
    ]


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
