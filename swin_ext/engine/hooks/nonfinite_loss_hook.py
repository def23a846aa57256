"""Skips updates from a loss or gradients that are NaN or infinite, and stops if they go on."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, get_rank
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.engine.errors import SettingError, SettingTypeError
from swin_ext.engine.optim.update_guard import UpdateGuard
from swin_ext.utils.errors import UserError
from swin_ext.utils.ranks import on_main_process

NUM_LISTED = 5  # names given in a message


class NonFiniteLossError(UserError, RuntimeError):
    """Training was stopped because its loss, or its gradients, are no numbers."""


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Leave weights and optimizer alone where loss or gradients are NaN or infinite on any rank.

    The images of the batch are logged by id and path, of all ranks on the main one. With gradient
    accumulation the whole update is left out that the batch belongs to. Gradients that overflow
    under loss scaling, with a finite loss, are left to the scaler and do not count.

    `SwinExtRunner` builds optimizer wrappers that can leave out an update (see `UpdateGuard`); for
    another runner, set `optim_wrapper.type='GuardedOptimWrapper'` or 'AutocastOptimWrapper'.

    After too many such iterations, or at once where weights or buffers have become non-finite
    themselves, training stops on all ranks. A checkpoint is left in `nonfinite_loss/` of the work
    directory, where nothing resumes from it by itself. Its `meta['nonfinite_loss']` has, for each
    rank, `rank`, `losses` (by name) and `images` (the metainfo of each).

    The loss is looked at while the device computes gradients, so it need not wait for the host.
    Gradients are waited for once an update; but a fused AdamW on CUDA leaves its update out by
    itself, and what happened is logged, counted and acted upon one iteration later. Several ranks
    exchange a number for each of both.

    Args:
        max_consecutive: Iterations in a row at which training stops.
        max_total: Iterations in all at which training stops; resuming goes on counting.

    Raises:
        SettingError: If a limit is no positive number.
        SettingTypeError: If there are several optimizers, or one that leaves no update out.
        NonFiniteLossError: When training stops.
    """

    def __init__(self, max_consecutive: int = 5, max_total: int = 100):
        for name, limit in dict(max_consecutive=max_consecutive, max_total=max_total).items():
            if not isinstance(limit, int) or limit < 1:
                raise SettingError(
                    f'NonFiniteLossHook: {name}={limit!r} must be a number of '
                    'iterations, 1 or more.'
                )
        self.max_consecutive = max_consecutive
        self.max_total = max_total

    def before_train(self, runner: Runner) -> None:
        if isinstance(runner.optim_wrapper, OptimWrapperDict):
            raise SettingTypeError(
                'NonFiniteLossHook: the model must have one optimizer, but '
                'optim_wrapper is an OptimWrapperDict of several.'
            )
        if not isinstance(runner.optim_wrapper, UpdateGuard):
            raise SettingTypeError(
                'NonFiniteLossHook: the optimizer wrapper must be able to leave out an update, but '
                f"is a {type(runner.optim_wrapper).__name__}. Set runner_type='SwinExtRunner', or "
                "optim_wrapper.type='GuardedOptimWrapper'."
            )
        runner.optim_wrapper.guards_updates = True
        hub = runner.message_hub  # saved in checkpoints
        self.consecutive = hub.get_info('nonfinite_losses_in_a_row', 0)
        self.total = hub.get_info('nonfinite_losses', 0)
        self._late = None  # number, batch and losses of the iteration that is yet to be looked at

    def after_train(self, runner: Runner) -> None:
        if self._late is not None:
            self._count(runner, runner.optim_wrapper.last_iteration(), runner.iter, *self._late)
        self.close(runner)

    def close(self, runner: Runner) -> None:
        self._late = None
        if isinstance(runner.optim_wrapper, UpdateGuard):
            runner.optim_wrapper.guards_updates = False

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        iteration = (runner.iter + 1, data_batch, outputs)
        if runner.optim_wrapper.is_late:
            outputs = {name: detached(value) for name, value in (outputs or {}).items()}
            iteration, self._late = self._late, (runner.iter + 1, data_batch, outputs)
            if iteration is None:
                return
        self._count(runner, runner.optim_wrapper.nonfinite, runner.iter + 1, *iteration)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Count an iteration that is late for the run that resumes after it."""
        if self._late is not None:
            nonfinite = runner.optim_wrapper.last_iteration() is not None
            checkpoint['message_hub']['runtime_info'].update(
                nonfinite_losses_in_a_row=self.consecutive + 1 if nonfinite else 0,
                nonfinite_losses=self.total + nonfinite,
            )

    def _count(
        self, runner: Runner, what: str | None, done: int, iteration: int, data_batch, outputs
    ) -> None:
        """Count what happened in an iteration, when `done` iterations are done."""
        nonfinite = what is not None
        if not nonfinite and not self.consecutive:
            return
        self.consecutive = self.consecutive + 1 if nonfinite else 0
        self.total += nonfinite
        runner.message_hub.update_info('nonfinite_losses_in_a_row', self.consecutive)
        runner.message_hub.update_info('nonfinite_losses', self.total)
        if nonfinite:
            self._report(runner, what, done, iteration, data_batch, outputs)

    def _report(
        self, runner: Runner, what: str, done: int, iteration: int, data_batch, outputs
    ) -> None:
        """Log what every rank knows; stop where a limit is reached."""
        losses = {
            name: float(torch.as_tensor(value).detach()) for name, value in (outputs or {}).items()
        }
        own = dict(rank=get_rank(), losses=losses, images=image_metas(data_batch))
        # Running statistics are each rank's own.
        found = all_gather_object((own, nonfinite_tensors(runner.model)))
        ranks = [rank for rank, _ in found]
        broken = list(dict.fromkeys(name for _, names in found for name in names))
        lines = '\n'.join(described(rank) for rank in ranks)
        verb = 'is' if what == 'loss' else 'are'
        runner.logger.warning(
            f'The {what} of iteration {iteration} {verb} not finite; the update is skipped '
            f'({self.consecutive} in a row, at most {self.max_consecutive}; {self.total} in all, '
            f'at most {self.max_total}).\n{lines}'
        )

        if broken:
            reason = (
                f'{len(broken)} tensors of the model are not finite themselves, e.g. '
                f'{", ".join(broken[:NUM_LISTED])}, so no batch can have a finite loss any '
                'more. Resume from an earlier checkpoint, with a lower learning rate or '
                'with clip_grad.'
            )
        elif self.consecutive >= self.max_consecutive:
            reason = (
                f'it was not finite {self.consecutive} times in a row (max_consecutive). '
                'Training has diverged: lower the learning rate, lengthen its warm-up, or '
                'set clip_grad.'
            )
        elif self.total >= self.max_total:
            reason = (
                f'it was not finite {self.total} times in all (max_total). See whether '
                'it is always the same images.'
            )
        else:
            return
        folder, filename = Path(runner.work_dir, 'nonfinite_loss'), f'iter_{done}.pth'

        def save() -> None:
            meta = dict(nonfinite_loss=ranks, iter=done)
            runner.save_checkpoint(str(folder), filename, meta=meta, by_epoch=False)
            if hasattr(runner, 'checkpoint_writer'):  # SwinExtRunner saves in the background
                runner.checkpoint_writer.flush()

        try:  # a launcher ends the main process, too, as soon as another has failed
            on_main_process(save)
            saved = (
                f'Weights, optimizer and what is known of the batch are in {folder / filename}, '
                "the latter under meta['nonfinite_loss']."
            )
        except Exception as error:  # must not hide why training ended
            saved = f'There is no checkpoint of it: {error}'
        raise NonFiniteLossError(
            f'Training stopped at iteration {iteration}, whose {what} {verb} not finite: '
            f'{reason}\n{lines}\n{saved}'
        )


def detached(value):
    """A loss without the graph that it came from."""
    return value.detach() if isinstance(value, torch.Tensor) else value


def image_metas(data_batch) -> list[dict]:
    """Metainfo of the samples of an mmdet batch, in types of JSON; empty for other batches."""
    samples = data_batch.get('data_samples', []) if isinstance(data_batch, dict) else []
    metas = [sample.metainfo for sample in samples if hasattr(sample, 'metainfo')]

    def plain(value):
        return value.tolist() if hasattr(value, 'tolist') else str(value)

    return json.loads(json.dumps(metas, default=plain))


def described(rank: dict) -> str:
    """A line about the losses and images of a rank."""
    losses = ', '.join(f'{name}={value:.4g}' for name, value in rank['losses'].items())
    images = ', '.join(f'{meta.get("img_id")} ({meta.get("img_path")})' for meta in rank['images'])
    return f'  rank {rank["rank"]}: {losses}; image ids: {images or "not in the batch"}'


def nonfinite_tensors(model) -> list[str]:
    """Names of the parameters and buffers that have a NaN or an infinite value."""
    model = model.module if is_model_wrapper(model) else model
    return [
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not tensor.isfinite().all()
    ]
