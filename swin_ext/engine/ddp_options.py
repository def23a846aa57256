"""`DistributedDataParallel` with options that a config can name."""

from __future__ import annotations

from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from swin_ext.engine.errors import SettingError

HOOKS = dict(bfloat16=default_hooks.bf16_compress_hook, float16=default_hooks.fp16_compress_hook)


@MODEL_WRAPPERS.register_module()
class CompressingDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, which can send gradients in half the bytes.

    Gradients are rounded to the type before they are summed over ranks, and sums are too; weights
    and the optimizer stay in float32. All ranks get the same sums, so weights stay equal.

    Args:
        module: The model.
        gradient_dtype: 'bfloat16' or 'float16'; None leaves gradients as they are.
        kwargs: Of `torch.nn.parallel.DistributedDataParallel`: `static_graph`,
            `gradient_as_bucket_view`, `find_unused_parameters`, `bucket_cap_mb`, and others.

    Raises:
        SettingError: If `gradient_dtype` is none of these.
    """

    def __init__(self, module: nn.Module, gradient_dtype: str | None = None, **kwargs: Any) -> None:
        if gradient_dtype not in (None, *HOOKS):
            raise SettingError(
                f'model_wrapper_cfg.gradient_dtype={gradient_dtype!r} must be one of '
                f'{", ".join(HOOKS)}, or None.'
            )
        super().__init__(module, **kwargs)
        if gradient_dtype is not None:
            self.register_comm_hook(None, HOOKS[gradient_dtype])
