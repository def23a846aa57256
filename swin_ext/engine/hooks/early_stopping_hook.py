"""Ends a training that no longer improves."""

from __future__ import annotations

import math

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

RULES = ('greater', 'less')


@HOOKS.register_module()
class ResumableEarlyStoppingHook(Hook):
    """Stop after `patience` validations in a row without a better metric.

    Better is what exceeds the best value so far by more than `min_delta`. Small gains that add up
    count: the best value stays what it was until then. NaN is no better than anything.

    mmengine's `EarlyStoppingHook` forgets its count when a run is resumed, only warns where there
    is no such metric, and has a default `min_delta` of 0.1, a whole range of COCO mAPs.

    Args:
        monitor: Name of the metric, as validation logs it.
        rule: 'greater' or 'less', whichever is better.
        min_delta: In units of the metric. COCO mAPs (0 to 1) of a model that has converged vary by
            0.001 to 0.002 from one validation to the next.
        patience: Number of validations.

    Raises:
        ValueError: If an argument is out of its range.
        KeyError: At the first validation, if it has no such metric.
    """

    priority = 'LOW'  # before checkpoints are written, which hold the count

    def __init__(
        self,
        monitor: str = 'coco/segm_mAP',
        rule: str = 'greater',
        min_delta: float = 0.001,
        patience: int = 10,
    ):
        if rule not in RULES:
            raise ValueError(f'ResumableEarlyStoppingHook: rule={rule!r} must be one of {RULES}.')
        if min_delta < 0 or patience < 1:
            raise ValueError(
                f'ResumableEarlyStoppingHook: min_delta={min_delta} must be 0 or '
                f'more, and patience={patience} 1 or more.'
            )
        self.monitor = monitor
        self.rule = rule
        self.min_delta = min_delta
        self.patience = patience
        self.best = None
        self.num_without_gain = 0

    def before_train(self, runner: Runner) -> None:
        self._stop_if_due(runner)  # resumed from a run that had stopped

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        if self.monitor not in metrics:
            raise KeyError(
                f'ResumableEarlyStoppingHook: validation has no metric {self.monitor!r}, but '
                f'{", ".join(sorted(metrics))}. Set monitor to one of them.'
            )
        value = float(metrics[self.monitor])
        if self._is_better(value):
            self.best = value
            self.num_without_gain = 0
        else:
            self.num_without_gain += 1
        self._stop_if_due(runner)

    def _is_better(self, value):
        if math.isnan(value):
            return False
        if self.best is None:
            return True
        gain = value - self.best if self.rule == 'greater' else self.best - value
        return gain > self.min_delta

    def _stop_if_due(self, runner):
        if self.num_without_gain >= self.patience:
            runner.train_loop.stop_training = True
            runner.logger.info(
                f'Early stopping at iteration {runner.iter}: in {self.num_without_gain} '
                f'validations {self.monitor} was not better than {self.best} by more than '
                f'{self.min_delta}. To train on, resume with a higher patience.'
            )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        checkpoint['early_stopping'] = dict(
            monitor=self.monitor, best=self.best, num_without_gain=self.num_without_gain
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        saved = checkpoint.get('early_stopping')
        if runner._resume and saved and saved['monitor'] == self.monitor:
            self.best, self.num_without_gain = saved['best'], saved['num_without_gain']
