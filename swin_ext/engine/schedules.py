"""Schedules of a run that is resumed for longer, or shorter, than it was planned."""

from __future__ import annotations

import copy
import math
import warnings

from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.runner import EpochBasedTrainLoop, Runner

from swin_ext.engine.errors import SettingError


class Schedules:
    """The schedules of a runner as its config says, before a checkpoint's take their place.

    MMEngine restores all that a scheduler knows, its length too: a training that is resumed with
    more epochs than it was planned for goes on with the last learning rate of the old plan.

    Args:
        runner: That is about to resume, with its optimizer and schedulers built.
    """

    def __init__(self, runner: Runner):
        self._runner = runner
        self._planned = [
            copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers_of(runner)
        ]
        wrapper = runner.optim_wrapper
        self._groups = [
            {key: value for key, value in group.items() if key != 'params'}
            for group in getattr(wrapper, 'param_groups', ())
        ]

    def warn_of_changes(self) -> None:
        """Say which schedules end elsewhere than the config would have it."""
        for scheduler, planned in zip(schedulers_of(self._runner), self._planned):
            if scheduler.end == planned['end']:
                continue
            unit = 'epoch' if scheduler.by_epoch else 'iteration'
            self._runner.logger.warning(
                f'The schedule {type(scheduler).__name__} of the checkpoint ends at {unit} '
                f'{scheduler.end}, that of the config at {planned["end"]}. The one of the '
                f'checkpoint goes on{_at_its_end(scheduler)}. To train as if the run had been '
                'planned for its new length, resume with extend_schedule=True.'
            )

    def stretch(self) -> None:
        """Take the schedules of the config, at the iteration where the run is.

        The learning rate, or whatever else is scheduled, becomes what it would be here in a run
        of the config's length; the state of the optimizer stays.

        Raises:
            SettingError: If a schedule depends on validations that were made.
        """
        runner, schedulers = self._runner, schedulers_of(self._runner)
        for scheduler in schedulers:
            if getattr(scheduler, 'need_val_args', False):
                raise SettingError(
                    f'extend_schedule=True: {type(scheduler).__name__} depends on the validations '
                    'that were made, and has no length that could change. Resume without it.'
                )
        for group, planned in zip(runner.optim_wrapper.param_groups, self._groups):
            for scheduler in schedulers:
                for key in (scheduler.param_name, f'initial_{scheduler.param_name}'):
                    group[key] = planned[key]
                group.update(_bounds(planned, scheduler.param_name))
        for scheduler, planned in zip(schedulers, self._planned):
            scheduler.load_state_dict(planned)
        # As ParamSchedulerHook does: schedules may build upon each other's values.
        epoch_ends = range(0)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            length = len(runner.train_dataloader)
            epoch_ends = range(length, runner.epoch * length + 1, length)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that no update is made between these steps
            for iteration in range(1, runner.iter + 1):
                for scheduler in schedulers:
                    if not scheduler.by_epoch:
                        scheduler.step()
                # A checkpoint of an epoch's last iteration may be from before the epoch's end.
                if iteration in epoch_ends:
                    for scheduler in schedulers:
                        if scheduler.by_epoch:
                            scheduler.step()
        values = sorted({group['lr'] for group in runner.optim_wrapper.param_groups}, reverse=True)
        runner.logger.info(
            f'extend_schedule: from iteration {runner.iter} of {runner.max_iters} on, the '
            f'learning rate is that of the config, {", ".join(f"{value:.3g}" for value in values)}.'
        )


def schedulers_of(runner: Runner) -> list[_ParamScheduler]:
    """All schedulers of a runner that are built."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):
        schedulers = [each for part in schedulers.values() for each in part]
    return [each for each in schedulers if isinstance(each, _ParamScheduler)]


def _bounds(group: dict, param_name: str) -> dict:
    """What a one-cycle schedule keeps in a parameter group."""
    keys = (f'max_{param_name}', f'min_{param_name}')
    return {key: group[key] for key in keys if key in group}


def _at_its_end(scheduler: _ParamScheduler) -> str:
    if math.isfinite(scheduler.end) and scheduler._global_step >= scheduler.end - 1:
        values = ', '.join(f'{value:.3g}' for value in sorted(set(scheduler.get_last_value())))
        return f' and has come to its end: {scheduler.param_name} stays at {values}'
    return ''
