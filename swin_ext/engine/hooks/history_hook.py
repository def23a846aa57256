"""Keeps every logged scalar of a training in one table, and draws it."""

from __future__ import annotations

import numbers
import os
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.visualization.vis_backend import BaseVisBackend

from swin_ext.engine.hooks.history import History, read_history
from swin_ext.utils.files import replacing
from swin_ext.utils.ranks import on_main_process

BACKEND = 'history.csv'


@HOOKS.register_module()
class HistoryHook(Hook):
    """Write `history.csv` and `curves.png` into the work_dir.

    The table has a row for each iteration that was logged, with all scalars that went to the
    visualizer, those of a validation after it included (`time` as `val/time`, to tell it from that
    of the iteration); it is complete after each log line. A
    resumed run goes on with it: rows beyond the checkpoint are replaced. The table of an earlier
    training is kept under another name. The curves are drawn after each validation and at the end.

    What cannot be written is warned of once, and tried again with the next log line.
    """

    priority = 'VERY_LOW'  # after LoggerHook

    def __init__(self):
        self._history = None
        self._warned = False

    def before_train(self, runner: Runner) -> None:
        on_main_process(self._start, runner)

    def _start(self, runner: Runner) -> None:
        path = Path(runner.work_dir) / 'history.csv'
        rows = {}
        if path.is_file():
            rows = self._continue(path, runner)
        self._history = History(path, rows)
        # MMEngine has no public way to add a backend to a visualizer.
        runner.visualizer._vis_backends[BACKEND] = HistoryBackend(self._history, runner)

    def _continue(self, path: Path, runner: Runner) -> dict[int, dict[str, float]]:
        """Rows up to the checkpoint that is resumed; a table that is not continued is renamed."""
        reason = 'This training starts anew'
        if runner.iter > 0:
            try:
                return {
                    step: row for step, row in read_history(path).items() if step <= runner.iter
                }
            except ValueError as error:
                reason = str(error)
        kept = path.with_name(f'history_before_{runner.timestamp}.csv')
        os.replace(path, kept)
        runner.logger.info(f'{reason}: the {path.name} that was there is now {kept}')
        return {}

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        self._flush(runner)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        self._flush(runner)
        self._draw(runner)

    def after_train(self, runner: Runner) -> None:
        self._flush(runner)
        self._draw(runner)
        self.close(runner)

    def close(self, runner: Runner) -> None:
        if self._history is not None:
            self._flush(runner)
            runner.visualizer._vis_backends.pop(BACKEND, None)
            self._history = None

    def _flush(self, runner: Runner) -> None:
        if self._history is None:
            return
        try:
            self._history.flush()
        except OSError as error:
            self._warn(runner, error)

    def _draw(self, runner: Runner) -> None:
        if self._history is None or not self._history.rows:
            return
        from swin_ext.visualization.curves import draw_curves

        path = Path(runner.work_dir) / 'curves.png'
        try:
            figure = draw_curves(self._history.records(), Path(runner.work_dir).resolve().name)
            with replacing(path) as file:
                figure.savefig(file, format='png')
        except Exception as error:  # no picture is worth a training
            self._warn(runner, error)

    def _warn(self, runner: Runner, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            runner.logger.warning(
                f'HistoryHook: {type(error).__name__}: {error}. Training goes '
                'on, and the next log line tries again.'
            )


class HistoryBackend(BaseVisBackend):
    """Hands the scalars of a visualizer on to a history."""

    def __init__(self, history: History, runner: Runner):
        super().__init__(save_dir=runner.work_dir)
        self._history = history
        self._runner = runner

    @property
    def experiment(self) -> History:
        return self._history

    def _init_env(self) -> None:
        """Nothing to set up."""

    def add_scalar(self, name: str, value, step: int = 0, **kwargs) -> None:
        self.add_scalars({name: value}, step)

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs
    ) -> None:
        scalars = {
            name: value.item() if hasattr(value, 'item') else value
            for name, value in scalar_dict.items()
            if isinstance(value, numbers.Real) or getattr(value, 'ndim', None) == 0
        }
        if self._runner.message_hub.get_info('loop_stage') == 'val':
            step = self._runner.iter  # LoggerHook counts validations in epochs, if told so
            # `time`, for one, is that of a training iteration in the same row.
            scalars = {
                name if '/' in name else f'val/{name}': value for name, value in scalars.items()
            }
        self._history.add(step, scalars)
