"""Trains for a time instead of a number of iterations, with the whole of the schedule."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import ParamSchedulerHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from swin_ext.engine.errors import SettingError
from swin_ext.engine.loops import ExactResumeMixin
from swin_ext.engine.schedules import schedulers_of
from swin_ext.engine.training_clock import CLOCKS, TrainingClock, peak_memory_mib
from swin_ext.utils.files import replacing_text
from swin_ext.utils.ranks import on_main_process

COST_FILE = 'training_cost.json'
HUB_KEY = 'training_seconds'
ROUNDING = 1e-9  # 29 / 49 * 49 is less than 29


@HOOKS.register_module()
class BudgetHook(ParamSchedulerHook):
    """End a training after a time or a number of iterations, with the whole of its schedules.

    It takes the place of `ParamSchedulerHook`: `default_hooks.param_scheduler`. The config's
    `max_epochs` or `max_iters` is what schedules are planned for. Once a fraction f of the budget
    is used, they stand where they would after a fraction f of that plan: warm-up, peak and decay
    all come, however many iterations there are. Schedules that depend on validations are left as
    they are.

    Counted are iterations with the loading of their data; neither the start of the program nor
    validations. What was used is kept in checkpoints, and a resumed run has the rest. The iteration
    during which the time is up is the last one, followed by a validation, as at any end.

    `training_cost.json` in the work directory says what was used: `iterations`, `cpu_s`, `wall_s`,
    `seconds_per_iteration` by the clock, `peak_memory_mib` (of the GPU, or the resident set of the
    process) and `parameters`.

    Args:
        seconds: The budget.
        iterations: The budget in iterations instead.
        clock: 'wall', or 'cpu' for the processor time of this process, which other programs on the
            same cores change less, though they slow it through caches and shared cores.

    Raises:
        SettingError: If an argument is out of its range; at the start of training, if it is not in
            the place of `ParamSchedulerHook`, if its loop cannot be ended within an epoch, or if
            the clock is 'cpu' while other processes (ranks, workers of the data loader) or a GPU
            would not count.
    """

    def __init__(
        self, seconds: float | None = None, iterations: int | None = None, clock: str = 'wall'
    ) -> None:
        if (seconds is None) == (iterations is None):
            raise SettingError('BudgetHook: give either seconds or iterations.')
        for name, value in (('seconds', seconds), ('iterations', iterations)):
            if value is not None and not value > 0:
                raise SettingError(f'BudgetHook: {name}={value} must be above 0.')
        if clock not in CLOCKS:
            raise SettingError(f'BudgetHook: clock={clock!r} must be one of {list(CLOCKS)}.')
        self.seconds, self.iterations, self.clock = seconds, iterations, clock
        self._timer: TrainingClock | None = None

    def before_train(self, runner: Runner) -> None:
        if sum(isinstance(hook, ParamSchedulerHook) for hook in runner.hooks) > 1:
            raise SettingError(
                'BudgetHook takes the place of ParamSchedulerHook: it belongs to '
                'default_hooks.param_scheduler, not to custom_hooks.'
            )
        self._check(runner)
        saved = runner.message_hub.get_info(HUB_KEY, None) if runner._resume else None
        self._timer = TrainingClock(saved)
        self._plan = runner.max_iters, runner.max_epochs
        self._expect_end(runner, runner.iter, self._fraction(runner.iter))
        self._timer.start()

    def before_val(self, runner: Runner) -> None:
        if self._timer is not None:
            self._timer.pause()

    def after_val(self, runner: Runner) -> None:
        if self._timer is not None:
            self._timer.start()

    def after_train_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        self._timer.update()
        done = runner.iter + 1
        if get_world_size() > 1 and self.seconds is not None:
            fraction = on_main_process(self._fraction, done)
        else:
            fraction = self._fraction(done)
        if fraction < 1:  # the last iteration has the end of the schedule
            self._schedule(runner, fraction)
        self._expect_end(runner, done, fraction)
        runner.message_hub.update_info(HUB_KEY, dict(self._timer.seconds))

    def after_train_epoch(self, runner: Runner) -> None:
        """Schedules in epochs have been stepped with the others."""

    def after_train(self, runner: Runner) -> None:
        self._timer.pause()
        self._write_cost(runner)
        self._timer = None

    def _check(self, runner: Runner) -> None:
        loop = runner.train_loop
        if not isinstance(loop, ExactResumeMixin):
            raise SettingError(
                f'BudgetHook: {type(loop).__name__} of train_cfg cannot be ended after any '
                'iteration. Set train_cfg.type=EpochTrainLoopWithIterVal (max_epochs) or '
                'ResumableIterTrainLoop (max_iters).'
            )
        if self.clock == 'cpu' and self.seconds is not None:
            workers = getattr(loop.dataloader, 'num_workers', 0)
            others = dict(
                ranks=get_world_size() - 1,
                num_workers=workers,
                GPU=int(next(runner.model.parameters()).is_cuda),
            )
            uncounted = [f'{name}: {number}' for name, number in others.items() if number]
            if uncounted:
                raise SettingError(
                    f"BudgetHook: clock='cpu' counts this process alone ({', '.join(uncounted)} "
                    'would not count). Set train_dataloader.num_workers=0 and '
                    "persistent_workers=False and train on one CPU process; or clock='wall'."
                )

    def _fraction(self, done: int) -> float:
        if self.iterations is not None:
            return done / self.iterations
        return self._timer.seconds[self.clock] / self.seconds

    def _schedule(self, runner: Runner, fraction: float) -> None:
        """Step all schedules to their place, in turn, as they may build upon each other."""
        max_iters, max_epochs = self._plan
        places = [
            (
                scheduler,
                int(fraction * (max_epochs if scheduler.by_epoch else max_iters) + ROUNDING),
            )
            for scheduler in schedulers_of(runner)
            if not getattr(scheduler, 'need_val_args', False)
        ]
        behind = places
        while behind:
            behind = [each for each in behind if each[0]._global_step < each[1]]
            for scheduler, _ in behind:
                scheduler.step()

    def _expect_end(self, runner: Runner, done: int, fraction: float) -> None:
        """Set the length of the loop: what it is going to be, which logs tell, or what it is."""
        loop, is_over = runner.train_loop, fraction >= 1
        if is_over:
            loop._max_iters, loop.stop_training = done, True
        else:
            expected = done / fraction if fraction else self._plan[0]
            loop._max_iters = max(done + 1, math.ceil(expected))
        if isinstance(loop, EpochBasedTrainLoop):
            loop._max_epochs = runner.epoch + (1 if is_over else 2)

    @master_only
    def _write_cost(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        seconds, iterations = self._timer.seconds, max(runner.iter, 1)
        cost = dict(
            iterations=runner.iter,
            cpu_s=seconds['cpu'],
            wall_s=seconds['wall'],
            clock=self.clock,
            seconds_per_iteration=seconds[self.clock] / iterations,
            peak_memory_mib=peak_memory_mib(),
            parameters=sum(p.numel() for p in model.parameters()),
        )
        with replacing_text(Path(runner.work_dir, COST_FILE)) as file:
            json.dump(cost, file, indent=2)
