"""Training by epochs with validation by iterations."""
from __future__ import annotations

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader


@LOOPS.register_module()
class EpochTrainLoopWithIterVal(EpochBasedTrainLoop):
    """Train for `max_epochs`, validate each `val_interval` iterations.

    Upstream's loops count either both in epochs or both in iterations. Use it with
    `by_epoch=False` in `CheckpointHook` and `LogProcessor`.

    Args:
        val_begin: First iteration after which validation may run.
        val_interval: Iterations between validations. The end of training is always validated.
    """

    def run(self):
        """Train to the end, from the middle of an epoch where a checkpoint was taken there."""
        self.runner.call_hook('before_train')
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
        self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        start = self._iter - self._epoch * len(self.dataloader)
        batches = skip_batches(self.dataloader, start) if start else self.dataloader
        for idx, data_batch in enumerate(batches, start):
            self.run_iter(idx, data_batch)
            if self._val_is_due():
                self.runner.val_loop.run()
                self.runner.model.train()
            if self.stop_training:
                break
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _val_is_due(self) -> bool:
        if self.runner.val_loop is None:
            return False
        at_interval = self._iter >= self.val_begin and self._iter % self.val_interval == 0
        return at_interval or self._iter == self._max_iters


def skip_batches(dataloader: DataLoader, num_batches: int) -> DataLoader:
    """A one-epoch copy of `dataloader` without its first batches, whose data are not read."""
    return DataLoader(
        dataloader.dataset,
        batch_sampler=list(dataloader.batch_sampler)[num_batches:],
        num_workers=dataloader.num_workers,
        collate_fn=dataloader.collate_fn,
        pin_memory=dataloader.pin_memory,
        worker_init_fn=dataloader.worker_init_fn)
