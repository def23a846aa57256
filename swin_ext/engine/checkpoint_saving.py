"""What a checkpoint holds: that of MMEngine, and the preprocessing of its images."""

from __future__ import annotations

import time

import mmengine
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmengine.utils import get_git_hash
from torch import Tensor

from swin_ext.engine.preprocessing_check import preprocessing_of


def collect_checkpoint(
    runner: Runner,
    config_text: str,
    meta: dict | None = None,
    by_epoch: bool = True,
    save_optimizer: bool = True,
    save_param_scheduler: bool = True,
) -> dict:
    """Gather what `Runner.save_checkpoint` of MMEngine 0.10 writes.

    Tensors are those of the training, on their devices, but for weights that are not contiguous.

    Args:
        runner: While it trains.
        config_text: The config as text.
        meta: What else is to stand in the checkpoint's `meta`; it is completed in place.
        by_epoch: Whether the checkpoint ends an epoch, which is not counted yet; else an iteration.
        save_optimizer: Whether to add the state of the optimizer.
        save_param_scheduler: Whether to add that of the schedules.

    Raises:
        TypeError: If `meta` is no dict, or the optimizer is not built yet.
    """
    meta = {} if meta is None else meta
    if not isinstance(meta, dict):
        raise TypeError(f'meta should be a dict or None, but got {type(meta)}')
    meta.setdefault('epoch', runner.epoch + 1 if by_epoch else runner.epoch)
    meta.setdefault('iter', runner.iter if by_epoch else runner.iter + 1)
    meta.update(
        cfg=config_text,
        seed=runner.seed,
        experiment_name=runner.experiment_name,
        time=time.strftime('%Y%m%d_%H%M%S', time.localtime()),
        mmengine_version=mmengine.__version__ + get_git_hash(),
    )
    dataset = runner.train_dataloader.dataset
    if hasattr(dataset, 'metainfo'):
        meta.update(dataset_meta=dataset.metainfo)
    preprocessing = preprocessing_of(dataset)
    if preprocessing is not None:
        meta.update(preprocessing=preprocessing)

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    state_dict = model.state_dict()
    for name, tensor in state_dict.items():  # channels-last weights are of no use to others
        if isinstance(tensor, Tensor):
            state_dict[name] = tensor.contiguous()
    checkpoint = dict(meta=meta, state_dict=state_dict, message_hub=runner.message_hub.state_dict())
    if save_optimizer:
        if not isinstance(runner.optim_wrapper, OptimWrapper):
            raise TypeError(
                'The optimizer can be saved once it is built, but optim_wrapper is a '
                f'{type(runner.optim_wrapper).__name__}.'
            )
        checkpoint['optimizer'] = runner.optim_wrapper.state_dict()
    if save_param_scheduler and runner.param_schedulers is None:
        runner.logger.warning('There is no param_scheduler: the checkpoint has no state of it.')
    elif save_param_scheduler:
        schedulers = runner.param_schedulers
        checkpoint['param_schedulers'] = (
            {name: _states(part) for name, part in schedulers.items()}
            if isinstance(schedulers, dict)
            else _states(schedulers)
        )
    return checkpoint


def _states(schedulers: list) -> list[dict]:
    return [scheduler.state_dict() for scheduler in schedulers]
