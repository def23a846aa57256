"""Learning rate schedules over the whole run, however long it is.

mmengine's runner gives each schedule the length of the run as `end`. Both count iterations with
`convert_to_iter_based=True`.
"""

from __future__ import annotations

from mmengine.optim import BaseOptimWrapper, OneCycleLR
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import _ParamScheduler
from mmengine.registry import PARAM_SCHEDULERS

from swin_ext.engine.errors import SettingError


@PARAM_SCHEDULERS.register_module()
class GroupOneCycleLR(OneCycleLR):
    """mmengine's `OneCycleLR`, in which each parameter group peaks at its own learning rate.

    Upstream's has one `eta_max` for all groups, which annuls their multipliers. The cycle (Smith
    and Topin, https://arxiv.org/abs/1708.07120) is of the length of the run.

    Args:
        optimizer: Its learning rates are those of the peak.
        end: Length of the run, behind `begin`.
        pct_start: Fraction of the run before the peak.
        kwargs: As for `OneCycleLR`: `anneal_strategy`, `div_factor`, `final_div_factor`,
            `three_phase`; but neither `eta_max` nor `total_steps`.
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper,
        *,
        end: int,
        begin: int = 0,
        pct_start: float = 0.3,
        **kwargs,
    ):
        for key in ('eta_max', 'total_steps'):
            if kwargs.pop(key, None) is not None:
                raise SettingError(
                    f'GroupOneCycleLR takes no {key}: the peak is optimizer.lr, the '
                    'length that of the run.'
                )
        peaks = [group['lr'] for group in optimizer.param_groups]
        if pct_start * (end - begin) == 1:  # upstream divides by the length of the warm-up less 1
            pct_start *= 1 + 1e-6
        super().__init__(
            optimizer, eta_max=peaks, begin=begin, end=end, pct_start=pct_start, **kwargs
        )


@PARAM_SCHEDULERS.register_module()
class WarmupStepLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up, then steps down, at fractions of the run.

    Step t of T has the group's learning rate times

    - warmup_factor + (1 - warmup_factor) * t / round(warmup * T), up to 1, or t / warmup;
    - gamma for each milestone with t >= round(milestone * T).

    Args:
        optimizer: Its learning rates are those after the warm-up.
        warmup: Fraction of the run for the warm-up; or, as a whole number, its steps, of which
            those behind the first milestone are left out.
        warmup_factor: Factor of the first step.
        milestones: Fractions of the run, rising.
        gamma: Factor of each milestone.
        begin: First step.
        end: T steps after the first.

    Raises:
        SettingError: If fractions are not between 0 and 1, or do not rise, or steps are negative.
    """

    def __init__(
        self,
        optimizer: BaseOptimWrapper,
        *,
        end: int,
        begin: int = 0,
        warmup: float | int = 0.05,
        warmup_factor: float = 0.001,
        milestones: tuple = (0.6, 0.9),
        gamma: float = 0.1,
        **kwargs,
    ):
        num_steps = end - begin
        if isinstance(warmup, int):
            warmup = min(warmup / num_steps, *milestones[:1], 1.0)
        fractions = [0.0, warmup, *milestones, 1.0]
        if sorted(fractions) != fractions:
            raise SettingError(
                f'WarmupStepLR: warmup={warmup} and milestones={tuple(milestones)} '
                'must rise from 0 to 1; they are fractions of the run.'
            )
        self.warmup_steps = round(warmup * num_steps)
        self.milestone_steps = [round(milestone * num_steps) for milestone in milestones]
        self.warmup_factor = warmup_factor
        self.gamma = gamma
        super().__init__(optimizer, begin=begin, end=end, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls, *args, end: int, epoch_length: int, begin: int = 0, by_epoch: bool = True, **kwargs
    ) -> WarmupStepLR:
        """Build from `begin` and `end` in epochs what counts iterations."""
        return cls(
            *args, begin=begin * epoch_length, end=end * epoch_length, by_epoch=False, **kwargs
        )

    def factor(self, step: int) -> float:
        """What learning rates are multiplied by, `step` steps after the beginning."""
        factor = self.gamma ** sum(step >= milestone for milestone in self.milestone_steps)
        if step < self.warmup_steps:
            factor *= self.warmup_factor + (1 - self.warmup_factor) * step / self.warmup_steps
        return factor

    def _get_value(self):
        factor = self.factor(self.last_step)
        return [group['initial_lr'] * factor for group in self.optimizer.param_groups]
