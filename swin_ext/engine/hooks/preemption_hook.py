"""Ends a training that is told to end so that it goes on later as if nothing had happened."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from pathlib import Path

from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.checkpoint.writer import write_last_checkpoint
from swin_ext.engine.errors import SettingError
from swin_ext.engine.loops import ExactResumeMixin, ValidationAbandonedError
from swin_ext.engine.preemption import Announcement
from swin_ext.engine.runner import require_writer
from swin_ext.engine.slurm_job import requeue
from swin_ext.utils.ranks import on_main_process

NAME = 'preempted_iter_{}.pth'
EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: try again later


class Preempted(SystemExit):  # noqa: N818 (as its base, it is no error)
    """The end of a training that was told to end, with the exit status of the process."""


@HOOKS.register_module()
class PreemptionHook(Hook):
    """On a signal, finish the iteration, save, let Slurm start the job again, and exit.

    All ranks agree on the iteration; see `swin_ext.engine.preemption`. A validation that is under
    way is left and made again later. The checkpoint `preempted_iter_N.pth` is named by
    `last_checkpoint`; it is deleted once a later one of its kind is whole, or the training ends.

    Args:
        signals: Names of the signals. Slurm preempts and cancels with SIGTERM; `--signal=USR2@90`
            gives notice before the time limit.
        exit_code: Status of all processes after that.

    Raises:
        SettingError: If a name is none of a signal that can be handled, or the runner is no
            `SwinExtRunner`.
    """

    priority = 'LOWEST'

    def __init__(
        self,
        signals: Sequence[str] = ('SIGTERM', 'SIGUSR1', 'SIGUSR2'),
        exit_code: int = EXIT_CODE,
    ) -> None:
        unknown = [name for name in signals if name not in signal.Signals.__members__]
        if unknown or {'SIGKILL', 'SIGSTOP'} & set(signals):
            raise SettingError(
                f'PreemptionHook(signals={list(signals)}): give names of signals that a process '
                'can handle, as SIGTERM, SIGUSR1, SIGUSR2.'
            )
        self.announcement = Announcement([signal.Signals[name] for name in signals])
        self.exit_code = exit_code
        self._is_training = False

    def before_train(self, runner: Runner) -> None:
        require_writer(runner, self)
        if not isinstance(runner.train_loop, ExactResumeMixin):
            runner.logger.warning(
                'PreemptionHook does nothing: a signal ends this training at once, as its loop, a '
                f'{type(runner.train_loop).__name__}, cannot be resumed exactly. Use '
                'train_cfg.type=EpochTrainLoopWithIterVal or ResumableIterTrainLoop.'
            )
            return
        self.announcement.start()
        self._is_training = True

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if self._is_training and self.announcement.at_iteration():
            self.announcement.settle()
            self._end(runner, runner.iter + 1)

    def before_val_epoch(self, runner: Runner) -> None:
        if self._is_training and len(runner.val_loop.dataloader) == 0:
            self._leave_validation(runner)

    def after_val_iter(self, runner: Runner, batch_idx: int, *args, **kwargs) -> None:
        is_last = batch_idx + 1 == len(runner.val_loop.dataloader)
        if self._is_training and (is_last or self.announcement.is_noticed()):
            self._leave_validation(runner)

    def after_abandoned_val(self, runner: Runner) -> None:
        """Called by the training loop once the validation does not count any more."""
        self._end(runner, runner.iter)

    def after_train(self, runner: Runner) -> None:
        if self._is_training:
            self.announcement.settle()
            on_main_process(self._remove_others, runner, None)

    def close(self, runner: Runner) -> None:
        self._is_training = False
        self.announcement.stop()

    def _leave_validation(self, runner: Runner) -> None:
        """Each rank comes here once in a validation: after its last batch, if not before."""
        if not self.announcement.agree():
            return
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                hook._swap_ema_parameters()  # else the averaged weights would be trained on
        raise ValidationAbandonedError

    def _end(self, runner: Runner, iteration: int) -> None:
        received = self.announcement.received
        runner.logger.warning(
            f'{received.name if received else "Another rank was told to end"}: training ends after '
            f'iteration {iteration}.'
        )
        runner.logger.warning(on_main_process(self._save_and_requeue, runner, iteration))
        raise Preempted(self.exit_code)

    def _save_and_requeue(self, runner: Runner, iteration: int) -> str:
        start = time.perf_counter()
        writer = runner.checkpoint_writer
        path = Path(runner.work_dir, NAME.format(iteration))
        last = Path(runner.message_hub.get_info('last_ckpt', None) or '')
        if last.name == f'iter_{iteration}.pth':  # the periodic one of this iteration
            path = last
        else:
            runner.save_checkpoint(
                runner.work_dir,
                path.name,
                meta=dict(epoch=runner.epoch, iter=iteration),
                by_epoch=False,
            )
            writer.then(write_last_checkpoint, runner.work_dir, str(path))
        writer.then(self._remove_others, runner, path)
        writer.flush()
        seconds = time.perf_counter() - start
        return f'{path} was written in {seconds:.1f} s. {requeue()}'

    def _remove_others(self, runner: Runner, kept: Path | None) -> None:
        for path in Path(runner.work_dir).glob(NAME.format('*')):
            if kept is None or path.name != kept.name:
                path.unlink()
