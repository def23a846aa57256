"""Learning rates that follow the size of the batches of all ranks."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from swin_ext.engine.errors import SettingError


def scale_lr(runner: Runner, optim_wrapper: OptimWrapper, auto_scale_lr: Mapping | None) -> None:
    """Multiply learning rates by the size of a batch over the one that they are meant for.

    The linear rule of Goyal et al. (https://arxiv.org/abs/1706.02677): each parameter group is
    multiplied, before schedules are built, so that their peaks and warm-ups follow. A batch is
    all that an update sees: ranks x `batch_size` x `accumulative_counts`. Upstream leaves the last
    factor out, though it takes the mean over an accumulation.

    Args:
        runner: With `world_size` and the config of the train loader, or the loader.
        optim_wrapper: Whose learning rates are changed.
        auto_scale_lr: `enable`, and `base_batch_size`, which the learning rates are meant for.

    Raises:
        SettingError: If it is enabled without `base_batch_size`.
    """
    if not (auto_scale_lr or {}).get('enable', False):
        return
    base = auto_scale_lr.get('base_batch_size')
    if not base:
        raise SettingError(
            'auto_scale_lr.enable=True needs auto_scale_lr.base_batch_size: the size of the '
            'batches that optim_wrapper.optimizer.lr is meant for.'
        )
    loader = runner._train_dataloader
    batch = loader['batch_size'] if isinstance(loader, Mapping) else loader.batch_size
    several = isinstance(optim_wrapper, OptimWrapperDict)
    for wrapper in optim_wrapper.values() if several else [optim_wrapper]:
        counts = getattr(wrapper, '_accumulative_counts', 1)
        size = runner.world_size * batch * counts
        for group in wrapper.param_groups:  # and what the log calls base_lr
            group['lr'] *= size / base
        runner.logger.info(
            f'auto_scale_lr: learning rates x {size / base:g}, for batches of {size} '
            f'({runner.world_size} ranks x {batch} images x {counts} accumulated), not {base}.'
        )
