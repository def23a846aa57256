"""A live progress bar below the log lines of a terminal."""

from __future__ import annotations

import logging
import weakref
from typing import TextIO

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile


@HOOKS.register_module()
class ProgressBarHook(Hook):
    """Show iterations, time left, loss, learning rate and device of a training.

    The time left is estimated from all iterations since the start, validations included. Log lines
    appear above the bar. There is none on ranks other than 0 and where the log does not go to a
    terminal: there, the lines of `LoggerHook` say the same. The terminal is given back however the
    training ends.
    """

    priority = 'VERY_LOW'

    def __init__(self):
        self._bar = None
        self._give_back = None

    def before_train(self, runner: Runner) -> None:
        self.close()
        handler = terminal_handler(runner.logger)
        if handler is None or not is_main_process():
            return
        terminal = handler.stream
        self._bar = tqdm(
            total=runner.max_iters,
            initial=runner.iter,
            desc='train',
            file=terminal,
            unit='it',
            dynamic_ncols=True,
            smoothing=0,
            mininterval=0.25,
        )
        handler.setStream(DummyTqdmFile(terminal))  # prints above the bar
        # Runs once: when asked to, or when the hook is gone, or when Python ends.
        self._give_back = weakref.finalize(self, give_back, handler, terminal, self._bar)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        if self._bar is None:
            return
        scalars = runner.message_hub.log_scalars  # numbers: reading them does not wait for the GPU
        parts = [
            f'{name} {scalars[f"train/{name}"].current():{style}}'
            for name, style in (('loss', '.3f'), ('lr', '.1e'))
            if f'train/{name}' in scalars
        ]
        status = runner.message_hub.get_info('device_status', '')  # GPUStatsHook's
        self._bar.set_postfix_str(', '.join([*parts, status] if status else parts), refresh=False)
        self._bar.update()

    def before_val(self, runner: Runner) -> None:
        if self._bar is not None:
            self._bar.set_description('validation')

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        if self._bar is None:
            return
        total = len(runner.val_dataloader)
        self._bar.set_description(f'validation {batch_idx + 1}/{total}')
        if batch_idx + 1 == total:
            self._bar.clear()  # metrics print without regard to the bar
            self._bar.disable = True

    def after_val(self, runner: Runner) -> None:
        if self._bar is not None:
            self._bar.disable = False
            self._bar.set_description('train')

    def after_train(self, runner: Runner) -> None:
        self.close()

    def close(self, runner: Runner | None = None) -> None:
        """Leave the bar as it is and the terminal to others; calling it again changes nothing."""
        if self._give_back is not None:
            self._give_back()
            self._bar = None


def give_back(handler: logging.StreamHandler, terminal: TextIO, bar: tqdm) -> None:
    handler.setStream(terminal)
    bar.disable = False  # it is while metrics print, and would not end its line
    bar.close()


def terminal_handler(logger: logging.Logger) -> logging.StreamHandler | None:
    """The handler that writes to a terminal, if there is one."""
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler and handler.stream.isatty():
            return handler
    return None
