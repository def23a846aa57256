"""Training loops that a resumed run goes on with as if it had not been interrupted."""

from __future__ import annotations

import bisect
import itertools

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from swin_ext.engine.errors import SettingError
from swin_ext.engine.resumable_data import (
    TRAINING,
    VALIDATION,
    EndlessBatches,
    EpochBatches,
    ResumableDataLoader,
    seed_everything,
)


class ValidationAbandonedError(Exception):
    """Raised by a hook for a validation to end that is made again when the run is resumed."""


class ExactResumeMixin:
    """Makes a train loop compute the same from a checkpoint as without the interruption.

    Upstream restores model, optimizer and schedulers, but no random state; it reads all data again
    that was used before, and loses gradients that were not applied yet. Here,

    - the random numbers of each iteration and batch depend on seed, rank and iteration alone;
    - loading begins with the batch that is next (see `resumable_data`);
    - if the checkpoint was taken amid an accumulation of gradients, its iterations are computed
      again: they cost less than a checkpoint of all gradients, of every rank, would;
    - a validation that was due at the checkpoint's iteration, and had not been made when it was
      written, is made first: schedulers and early stopping count validations.

    To the last bit on CPUs. CUDA kernels sum in an order of their own; transforms of the validation
    must not draw; and checkpoints have the running statistics of batch norms of rank 0 alone.
    """

    batches_type = EpochBatches

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs):
        if isinstance(dataloader, dict):
            dataloader = runner.build_dataloader(
                dataloader,
                seed=runner.seed,
                diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False),
            )
        dataloader = ResumableDataLoader(dataloader, self.batches_type)
        super().__init__(runner, dataloader, *args, **kwargs)
        self._last_val_iter = 0

    def run_iter(self, *args) -> None:
        seed_everything(self.runner.seed, TRAINING, get_rank(), self._iter)
        super().run_iter(*args)

    def restore(self) -> None:
        """Go to where the run is, after `before_train` and before the first batch.

        Raises:
            SettingError: If the checkpoint was trained with other batches.
        """
        self._decide_current_val_interval()
        hub = self.runner.message_hub  # is saved in checkpoints
        saved = hub.get_info('train_data') if self._iter else None
        batches = self.dataloader.batch_sampler
        batches.seed = self.runner.seed
        current = dict(
            num_samples=len(self.dataloader.dataset),
            batch_size=batches.batch_size,
            world_size=get_world_size(),
        )
        if saved:
            changes = [
                f'{key}: {saved[key]} -> {value}'
                for key, value in current.items()
                if saved[key] != value
            ]
            if changes:
                raise SettingError(
                    f'Cannot resume at iteration {self._iter}: the train data are not those of the '
                    f'checkpoint ({", ".join(changes)}), so iterations and epochs would mean '
                    'something else. Set them as they were; or start a new training from the '
                    'weights: give the checkpoint as load_from, without resume.'
                )
            if saved['sampler_seed'] is not None:
                batches.sampler.seed = saved['sampler_seed']
        hub.update_info(
            'train_data', dict(current, sampler_seed=getattr(batches.sampler, 'seed', None))
        )
        self._last_val_iter = hub.get_info('last_val_iter', self._iter) if self._iter else 0
        hub.update_info('last_val_iter', self._last_val_iter)
        self._recompute_gradients()
        if self._val_is_due() and self._last_val_iter != self._iter:
            self.runner.logger.info(
                f'The validation of iteration {self._iter} is made first: the checkpoint was '
                'written before it.'
            )
            self._validate()

    def _recompute_gradients(self):
        optim_wrapper = self.runner.optim_wrapper
        num = self._iter % getattr(optim_wrapper, '_accumulative_counts', 1)
        batches = self.dataloader.batch_sampler
        batches.start = self._iter - num
        if not num or self._iter == self._max_iters:
            return
        self.runner.logger.info(
            f'Iterations {self._iter - num + 1} to {self._iter} are computed again, for the '
            'gradients that are accumulated from them.'
        )
        model = self.runner.model
        self._set_train_mode()
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        optim_wrapper._inner_count -= num
        for i, batch in enumerate(itertools.islice(batches.from_start(), num), batches.start):
            data_batch = self.dataloader.read(batch)
            seed_everything(self.runner.seed, TRAINING, get_rank(), i)
            model.train_step(data_batch, optim_wrapper=optim_wrapper)
        with torch.no_grad():
            for buffer, value in buffers:  # running statistics saw these batches once already
                buffer.copy_(value)

    def _val_is_due(self) -> bool:
        if self.runner.val_loop is None:
            return False
        at_interval = self._iter >= self.val_begin and self._iter % self.val_interval == 0
        return self._iter > 0 and (at_interval or self._iter == self._max_iters)

    def _validate(self) -> None:
        previous, self._last_val_iter = self._last_val_iter, self._iter
        # Known before it ends: checkpoints of the best model are written at its end.
        self.runner.message_hub.update_info('last_val_iter', self._iter)
        seed_everything(self.runner.seed, VALIDATION, get_rank(), self._iter)
        try:
            self.runner.val_loop.run()
        except ValidationAbandonedError:
            self.runner.message_hub.update_info('last_val_iter', previous)
            self.runner.call_hook('after_abandoned_val')  # PreemptionHook: saves and exits
            raise
        self._set_train_mode()

    def _set_train_mode(self) -> None:
        self.runner.model.train()
        self.runner.call_hook('after_train_mode')  # BackboneFreezeHook: frozen parts stay in eval


@LOOPS.register_module()
class EpochTrainLoopWithIterVal(ExactResumeMixin, EpochBasedTrainLoop):
    """Train for `max_epochs`, validate each `val_interval` iterations; resumes exactly.

    Upstream's loops count either both in epochs or both in iterations. Use it with
    `by_epoch=False` in `CheckpointHook` and `LogProcessor`.

    Args:
        val_begin: First iteration after which validation may run.
        val_interval: Iterations between validations. The end of training is always validated.
        dynamic_intervals: Pairs of an iteration, and the interval between validations from there
            on, as for `IterBasedTrainLoop`.
        val_by_epoch: Whether these three count epochs instead.
    """

    def __init__(self, *args, val_by_epoch: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        if val_by_epoch:
            length = len(self.dataloader)
            self.val_begin *= length
            # From the first iteration of an epoch on, as upstream counts from 1.
            self.dynamic_milestones = [
                (epoch - 1) * length + 1 if epoch else 0 for epoch in self.dynamic_milestones
            ]
            self.dynamic_intervals = [every * length for every in self.dynamic_intervals]
            self.val_interval = self.dynamic_intervals[0]

    def run(self) -> torch.nn.Module:
        """Train to the end, from the middle of an epoch where a checkpoint was taken there."""
        self.runner.call_hook('before_train')
        self.restore()
        # Early stopping ends an epoch before its time, and a checkpoint may count it as done.
        self._epoch = min(self._epoch, self._iter // len(self.dataloader))
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self._set_train_mode()
        done = self._iter - self._epoch * len(self.dataloader)
        self.dataloader.batch_sampler.start = self._iter
        # A checkpoint of an epoch's last iteration lacks what hooks do after the epoch.
        batches = self.dataloader if done < len(self.dataloader) else ()
        for idx, data_batch in enumerate(batches, done):
            self.run_iter(idx, data_batch)
            self._decide_current_val_interval()
            if self._val_is_due():
                self._validate()
            if self.stop_training:
                break
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _decide_current_val_interval(self) -> None:
        # Upstream's epoch loop looks for its epoch among the milestones.
        step = bisect.bisect(self.dynamic_milestones, self._iter + 1)
        self.val_interval = self.dynamic_intervals[step - 1]


@LOOPS.register_module()
class ResumableIterTrainLoop(ExactResumeMixin, IterBasedTrainLoop):
    """Upstream's `IterBasedTrainLoop`, but resumes exactly, without reading data again.

    Takes an `InfiniteSampler`, or a finite one that is gone through again and again without new
    workers. The end of training is always validated.
    """

    batches_type = EndlessBatches

    def run(self) -> torch.nn.Module:
        self.runner.call_hook('before_train')
        self.runner.call_hook('before_train_epoch')
        self.restore()
        self._set_train_mode()
        while self._iter < self._max_iters and not self.stop_training:
            self.run_iter(next(self.dataloader_iterator))
            self._decide_current_val_interval()
            if self._val_is_due():
                self._validate()
        self.dataloader_iterator = None  # ends workers, which would read on without end
        self.runner.call_hook('after_train_epoch')
        self.runner.call_hook('after_train')
        return self.runner.model
