"""Which iterations have a line in the log."""

from __future__ import annotations

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner


def is_logged(runner: Runner, batch_idx: int) -> bool:
    """Whether the `LoggerHook` of a run writes a line of this training iteration."""
    hook = next((each for each in runner.hooks if isinstance(each, LoggerHook)), None)
    if hook is None:
        return False
    if hook.every_n_inner_iters(batch_idx, hook.interval):
        return True
    is_short = len(runner.train_dataloader) <= hook.interval
    return hook.end_of_epoch(runner.train_dataloader, batch_idx) and (
        not hook.ignore_last or is_short
    )
