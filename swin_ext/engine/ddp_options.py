"""What a config may say of several ranks: `model_wrapper_cfg` and `sync_avg_factor`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from mmengine.model import MMDistributedDataParallel
from mmengine.registry import MODEL_WRAPPERS
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks

from swin_ext.engine.errors import SettingError
from swin_ext.models.sync_batch_norm import on_cpu

COMPRESSIONS = dict(bf16=default_hooks.bf16_compress_hook, fp16=default_hooks.fp16_compress_hook)


@MODEL_WRAPPERS.register_module()
class SwinExtDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, on CPUs too, that can send gradients in half the bytes.

    Args:
        module: The model, on the device where it is trained.
        device_ids: The GPU; not used where the model is on a CPU.
        gradient_compression: 'bf16' or 'fp16': gradients are rounded to it before they are summed,
            and come back in their own type. 'bf16' has the range of float32; 'fp16' may overflow
            under a loss scale, which then falls. The sum of N ranks has errors of about 2**-9 or
            2**-12 of its size. None sends gradients as they are.
        broadcast_buffers: Whether rank 0 hands its buffers on at each forward pass. False as in
            mmengine's runner where it is told nothing.
        kwargs: As for `DistributedDataParallel`: `static_graph`, `gradient_as_bucket_view`,
            `find_unused_parameters`, `bucket_cap_mb`.

    Raises:
        SettingError: If `gradient_compression` is none of these.
    """

    def __init__(
        self,
        module: nn.Module,
        device_ids: list[int] | None = None,
        gradient_compression: str | None = None,
        broadcast_buffers: bool = False,
        **kwargs: Any,
    ):
        if gradient_compression not in (None, *COMPRESSIONS):
            raise SettingError(
                f'model_wrapper_cfg.gradient_compression={gradient_compression!r} must be one of '
                f'{", ".join(map(repr, COMPRESSIONS))}, or None for none.'
            )
        if {parameter.device.type for parameter in module.parameters()} == {'cpu'}:
            device_ids, module = None, on_cpu(module)
        super().__init__(
            module, device_ids=device_ids, broadcast_buffers=broadcast_buffers, **kwargs
        )
        if gradient_compression:
            self.register_comm_hook(None, COMPRESSIONS[gradient_compression])


OWN = SwinExtDistributedDataParallel.__name__


def ddp_options(cfg: Mapping[str, Any]) -> dict:
    """`model_wrapper_cfg` of a config, with what the config says elsewhere or nowhere.

    MMEngine forgets the top-level `find_unused_parameters` where there is a `model_wrapper_cfg`.

    Raises:
        SettingError: If a static graph is asked for together with accumulated gradients.
    """
    options = dict(cfg.get('model_wrapper_cfg') or {})
    optim_wrapper = cfg.get('optim_wrapper')
    counts = optim_wrapper.get('accumulative_counts', 1) if isinstance(optim_wrapper, dict) else 1
    if options.get('static_graph') and counts > 1:
        raise SettingError(
            'model_wrapper_cfg.static_graph=True does not go with '
            f'optim_wrapper.accumulative_counts={counts}: PyTorch learns the graph in the first '
            'iteration, which must exchange gradients, and does not while they are accumulated '
            '(pytorch issue 143580). Leave one of them out.'
        )
    if options.setdefault('type', OWN) == OWN and cfg.get('find_unused_parameters') is not None:
        options.setdefault('find_unused_parameters', cfg['find_unused_parameters'])
    return options


def sync_heads(model: nn.Module, logger: logging.Logger) -> None:
    """Let the heads of `model` average over the samples of all ranks, and log which do.

    Raises:
        SettingError: If none can.
    """
    from swin_ext.models.sync_avg_factor import sync_avg_factor  # imports mmdet

    synced, others = sync_avg_factor(model)
    if not synced:
        raise SettingError(
            f'sync_avg_factor=True: no head of {type(model).__name__} averages its losses in a way '
            'that this package knows (AnchorHead, BBoxHead and FCNMaskHead of MMDetection). FCOS, '
            'ATSS, DETR, Mask2Former and their kin average over all ranks by themselves: take it '
            'out.'
        )
    left = f' In a way of their own, left as they are: {", ".join(others)}.' if others else ''
    logger.info(f'sync_avg_factor: over all ranks average {", ".join(synced)}.{left}')
