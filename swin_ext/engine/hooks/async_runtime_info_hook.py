"""MMEngine's figures of each iteration, without waiting for the device."""

from __future__ import annotations

from collections import deque

import torch
from mmengine.hooks import RuntimeInfoHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor

from swin_ext.engine.hooks.logged_iterations import is_logged
from swin_ext.engine.host_copy import HostCopy


@HOOKS.register_module()
class AsyncRuntimeInfoHook(RuntimeInfoHook):
    """`RuntimeInfoHook`, but losses come from the device when the host needs them, or later.

    Upstream's reads each loss, and the norm of the gradients if they are clipped, as soon as an
    iteration is handed to the device: the device then has nothing to do until the next one is.
    Here, an iteration whose figures are still under way is left, and entered with those of a later
    one. All are there, in their order, wherever they are read: when `LoggerHook` logs, in
    checkpoints, and at the end. In its place: `default_hooks.runtime_info`. On a CPU nothing is
    ever under way.
    """

    def __init__(self) -> None:
        self._under_way: deque[tuple[list[str], HostCopy]] = deque()
        self._norms: dict[str, Tensor] = {}  # of the gradients, of this iteration

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._under_way.clear()
        wrapper = runner.optim_wrapper
        if getattr(wrapper, 'clip_grad_kwargs', None) and not hasattr(wrapper.clip_func, 'norms'):
            wrapper.clip_func = keeping_norm(wrapper.clip_func, wrapper.grad_name, self._norms)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: dict | None = None
    ) -> None:
        figures = {**self._norms, **(outputs or {})}
        self._norms.clear()
        on_device = {
            name: value.detach()
            for name, value in figures.items()
            if isinstance(value, Tensor) and value.numel() == 1
        }
        rest = {name: value for name, value in figures.items() if name not in on_device}
        super().after_train_iter(runner, batch_idx, data_batch, rest)
        if on_device:
            values = torch.stack([value.reshape(()).float() for value in on_device.values()])
            self._under_way.append((list(on_device), HostCopy(values)))
        self._enter(runner, wait=is_logged(runner, batch_idx))

    def before_val(self, runner: Runner) -> None:
        self._enter(runner, wait=True)
        super().before_val(runner)

    def after_train(self, runner: Runner) -> None:
        self._enter(runner, wait=True)
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if self._under_way:
            self._enter(runner, wait=True)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _enter(self, runner: Runner, wait: bool) -> None:
        while self._under_way and (wait or self._under_way[0][1].has_come()):
            names, copy = self._under_way.popleft()
            for name, value in zip(names, copy.read()):
                runner.message_hub.update_scalar(f'train/{name}', value)


def keeping_norm(clip, name: str, norms: dict[str, Tensor]):
    """`clip_grad_norm_`, which returns nothing: mmengine would wait for its number to log it."""

    def clip_and_keep(*args, **kwargs) -> None:
        norm = clip(*args, **kwargs)
        if norm is not None:
            norms[name] = norm

    clip_and_keep.norms = norms
    return clip_and_keep
