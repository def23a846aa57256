"""Ends a training that no longer improves."""

from __future__ import annotations

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.engine.errors import MissingMetricError, SettingError
from swin_ext.engine.hooks.metric_rule import gain, rule_of


@HOOKS.register_module()
class ResumableEarlyStoppingHook(Hook):
    """Stop after `patience` validations in a row without a better metric.

    Better is what exceeds the best value so far by more than `min_delta`. Small gains that add up
    count: the best value stays what it was until then. NaN and infinity are no better than
    anything.

    mmengine's `EarlyStoppingHook` forgets its count when a run is resumed, stops at the first NaN,
    and has a default `min_delta` of 0.1, a whole range of COCO mAPs.

    Args:
        monitor: Name of the metric, as validation logs it.
        rule: 'greater' or 'less', whichever is better; by default told from the name.
        min_delta: In units of the metric. COCO mAPs (0 to 1) of a model that has converged vary by
            0.001 to 0.002 from one validation to the next.
        patience: Number of validations.
        strict: Whether a validation without the metric ends the run with an error; otherwise it
            is warned of and does not count.
        stopping_threshold: Stop as soon as the metric is better than this.

    Raises:
        SettingError: If an argument is out of its range, or the rule is needed and absent; at the
            start of training, if its loop cannot be stopped.
        MissingMetricError: If `strict`, at a validation that has no such metric.
    """

    priority = 'LOW'  # before checkpoints are written, which hold the count

    def __init__(
        self,
        monitor: str = 'coco/segm_mAP',
        rule: str | None = None,
        min_delta: float = 0.001,
        patience: int = 10,
        strict: bool = False,
        stopping_threshold: float | None = None,
    ):
        if min_delta < 0 or patience < 1:
            raise SettingError(
                f'ResumableEarlyStoppingHook: min_delta={min_delta} must be 0 or '
                f'more, and patience={patience} 1 or more.'
            )
        self.monitor = monitor
        self.rule = rule_of(monitor, rule)
        self.min_delta = min_delta
        self.patience = patience
        self.strict = strict
        self.stopping_threshold = stopping_threshold
        self.best = None
        self.num_without_gain = 0
        self._hub_key = f'early_stopping_{monitor}'

    def before_train(self, runner: Runner) -> None:
        if not hasattr(runner.train_loop, 'stop_training'):
            raise SettingError(
                f'ResumableEarlyStoppingHook: {type(runner.train_loop).__name__} of train_cfg does '
                'not look at stop_training, so that it cannot be stopped: take another loop.'
            )
        if runner._resume:
            saved = runner.message_hub.get_info(self._hub_key, {})
            self.best = saved.get('best')
            self.num_without_gain = saved.get('num_without_gain', 0)
        self._stop_if_due(runner)  # resumed from a run that had stopped

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.monitor not in (metrics or {}):
            text = (
                f'ResumableEarlyStoppingHook: validation has no metric {self.monitor!r}, but '
                f'{", ".join(sorted(metrics or {})) or "none"}. Set monitor to one of them.'
            )
            if self.strict:
                raise MissingMetricError(text)
            runner.logger.warning(f'{text} This validation does not count.')
            return
        value = metrics[self.monitor]
        value = math.nan if value is None else float(value)
        if self._is_better(value) or self._is_enough(value):
            self.best = value
            self.num_without_gain = 0
        else:
            self.num_without_gain += 1
        runner.message_hub.update_info(  # is saved in checkpoints
            self._hub_key, dict(best=self.best, num_without_gain=self.num_without_gain)
        )
        self._stop_if_due(runner)

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return self.best is None or gain(self.rule, value, self.best) > self.min_delta

    def _is_enough(self, value: float | None) -> bool:
        if self.stopping_threshold is None or value is None or not math.isfinite(value):
            return False
        return gain(self.rule, value, self.stopping_threshold) > 0

    def _stop_if_due(self, runner: Runner) -> None:
        if self._is_enough(self.best):
            reason = (
                f'{self.monitor} is {self.best}, {self.rule} than the stopping_threshold '
                f'{self.stopping_threshold}.'
            )
        elif self.num_without_gain >= self.patience:
            reason = (
                f'in {self.num_without_gain} validations {self.monitor} was not better than '
                f'{self.best} by more than {self.min_delta}. To train on, resume with a higher '
                'patience.'
            )
        else:
            return
        runner.train_loop.stop_training = True
        runner.logger.info(f'Early stopping at iteration {runner.iter}: {reason}')
