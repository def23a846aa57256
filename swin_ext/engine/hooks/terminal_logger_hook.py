"""Logs for people on the terminal, and for programs in the log file."""

from __future__ import annotations

import weakref

from mmengine.hooks import LoggerHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.engine.run_summary import classes_of, describe_figures, describe_run
from swin_ext.engine.terminal import log_file_only, log_warnings


@HOOKS.register_module()
class TerminalLoggerHook(LoggerHook):
    """MMEngine's `LoggerHook` with a terminal that can be read.

    The terminal shows a summary as the run begins, the progress, and of a validation a handful of
    figures and a table of the classes. The line with all figures, and warnings of other packages,
    are in the log file; the scalars of the visualizer are those of `LoggerHook`.
    """

    _undo = None

    def before_run(self, runner: Runner) -> None:
        super().before_run(runner)
        self.close()
        # Is undone at the latest when the hook is gone or Python ends.
        self._undo = weakref.finalize(self, log_warnings(runner.logger))

    def before_train(self, runner: Runner) -> None:
        runner.logger.info(describe_run(runner, 'train'))

    def before_val(self, runner: Runner) -> None:
        if not is_training(runner):
            runner.logger.info(describe_run(runner, 'val'))

    def before_test(self, runner: Runner) -> None:
        runner.logger.info(describe_run(runner, 'test'))

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        with log_file_only(runner.logger):
            super().after_val_epoch(runner, metrics)
        if metrics:
            when = f' after iteration {runner.iter}' if is_training(runner) else ''
            figures = describe_figures(metrics, classes_of(runner.val_dataloader))
            runner.logger.info(f'Validation{when}:  {figures}')

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """The table of a test is that of `ResultsTableHook`."""
        with log_file_only(runner.logger):
            super().after_test_epoch(runner, metrics)
        if metrics:
            runner.logger.info(f'Test:  {describe_figures(metrics, ())}')

    def after_run(self, runner: Runner) -> None:
        self.close()
        super().after_run(runner)

    def close(self, runner: Runner | None = None) -> None:
        """Give Python's warnings back, however the run ends."""
        if self._undo is not None:
            self._undo()


def is_training(runner: Runner) -> bool:
    """Whether a validation is one of a training; asking for `train_loop` would build it."""
    return runner._train_loop is not None and not isinstance(runner._train_loop, dict)
