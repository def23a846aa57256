"""Mixed precision that a config can ask for wherever it runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from swin_ext.engine.errors import SettingError
from swin_ext.engine.optim.update_guard import UpdateGuard

# Before PyTorch 2.3 there is only the one of torch.cuda.
GradScaler = getattr(torch.amp, 'GradScaler', torch.cuda.amp.GradScaler)
DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16)


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(UpdateGuard, AmpOptimWrapper):
    """Train under `torch.autocast`: mmengine's `AmpOptimWrapper`, which refuses CPUs.

    - 'float16' on CUDA, with loss scaling. On a CPU, where float16 is slow, it is float32: the log
      says so.
    - 'bfloat16' on CUDA and on CPUs, without loss scaling, for its range is that of float32.
      Faster than float32 on CPUs with instructions for it (AMX, AVX512-BF16) alone.

    Args:
        dtype: 'float16' or 'bfloat16'.
        loss_scale: Of float16: 'dynamic', the number to scale by, or arguments of `GradScaler`.
        kwargs: As for `OptimWrapper`: `optimizer`, `accumulative_counts`, `clip_grad`.

    Raises:
        SettingError: If `dtype` or `loss_scale` is none of these.
    """

    def __init__(
        self, dtype: str = 'float16', loss_scale: str | float | dict = 'dynamic', **kwargs
    ):
        OptimWrapper.__init__(self, **kwargs)  # not that of AmpOptimWrapper
        if dtype not in DTYPES:
            raise SettingError(
                f"optim_wrapper.dtype={dtype!r} must be 'float16' or 'bfloat16'; for "
                "float32 set optim_wrapper.type='OptimWrapper'."
            )
        self.device_type = torch.device(get_device()).type
        self.cast_dtype = DTYPES[dtype]
        self.enabled = self.device_type == 'cuda' or dtype == 'bfloat16'
        if not self.enabled:
            print_log(
                f'Mixed precision in float16 is for CUDA devices; on this {self.device_type} '
                "training is in float32. optim_wrapper.dtype='bfloat16' works on CPUs too.",
                logger='current',
            )
        # As upstream: a fixed scale is set anew after each update.
        self._scale_update_param = None
        if loss_scale == 'dynamic':
            scaler_options = {}
        elif isinstance(loss_scale, dict):
            scaler_options = loss_scale
        elif isinstance(loss_scale, (int, float)) and loss_scale > 0:
            scaler_options = dict(init_scale=float(loss_scale))
            self._scale_update_param = float(loss_scale)
        else:
            raise SettingError(
                f"optim_wrapper.loss_scale={loss_scale!r} must be 'dynamic', a number "
                'above 0, or a dict of arguments of GradScaler.'
            )
        scales = self.enabled and dtype == 'float16'
        self.loss_scaler = GradScaler(**scaler_options, enabled=scales)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Cast inside; leave gradients unsynchronised while they are accumulated."""
        # PyTorch 2.1 refuses float16 on CPUs even where it is not enabled.
        autocast = nullcontext()
        if self.enabled:
            autocast = torch.autocast(self.device_type, self.cast_dtype)
        with OptimWrapper.optim_context(self, model), autocast:
            yield

    def load_state_dict(self, state_dict: dict) -> None:
        """Resume, also from a training on another kind of device or in another type."""
        state_dict = dict(state_dict)
        if not state_dict.get('loss_scaler') and self.loss_scaler.is_enabled():
            state_dict.pop('loss_scaler', None)
            print_log('The checkpoint has no loss scale: it begins anew.', logger='current')
        super().load_state_dict(state_dict)
