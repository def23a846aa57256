"""Saves periodically, and deletes no checkpoint before a newer one is whole."""

from __future__ import annotations

from mmengine.dist import get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from swin_ext.checkpoint.writer import remove_unfinished, write_last_checkpoint
from swin_ext.engine.errors import SettingError
from swin_ext.engine.runner import require_writer
from swin_ext.utils.ranks import on_all_ranks, on_main_process


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """`CheckpointHook` for `SwinExtRunner`, whose checkpoints are written in the background.

    Upstream's hook deletes the oldest checkpoint before it saves, and names the new one in
    `last_checkpoint` at once. Here both wait until the new one is on the disk. The best checkpoint
    is `BestCheckpointHook`'s task.

    Args:
        kwargs: As for `CheckpointHook`, without `save_best`.

    Raises:
        SettingError: If `save_best` is given, or the runner is another one.
        CheckpointWriteError: If a checkpoint could not be written, in the iteration after that.
            With several ranks all of them raise it, at the next checkpoint or at the end.
    """

    def __init__(self, **kwargs) -> None:
        if kwargs.get('save_best') is not None:
            raise SettingError(
                'AtomicCheckpointHook saves periodically alone. Instead of '
                f'save_best={kwargs["save_best"]!r}, add '
                f"dict(type='BestCheckpointHook', metric={kwargs['save_best']!r}) to custom_hooks."
            )
        super().__init__(**kwargs)

    def before_train(self, runner: Runner) -> None:
        require_writer(runner, self)
        on_all_ranks(super().before_train, runner)  # deletes files on the main process
        on_main_process(remove_unfinished, self.out_dir)

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        if get_world_size() == 1:  # others would have to be asked each time
            runner.checkpoint_writer.check()
        super().after_train_iter(runner, *args, **kwargs)

    def after_train(self, runner: Runner) -> None:
        on_main_process(runner.checkpoint_writer.flush)  # publishing reads the file
        on_main_process(super().after_train, runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated = []
        if self.max_keep_ckpts > 0:
            steps = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            outdated = steps[: -self.max_keep_ckpts]
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(steps)  # drops what is outdated
            # The checkpoint still lists it, and `before_train` of a resumed run deletes it, should
            # this run be killed before it does.
            runner.message_hub.update_info('keep_ckpt_ids', steps)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        on_main_process(self._save, runner, name, meta, outdated)

    def _save(self, runner: Runner, name: str, meta: dict, outdated: list[int]) -> None:
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        writer = runner.checkpoint_writer
        writer.then(write_last_checkpoint, runner.work_dir, self.last_ckpt)
        for step in outdated:
            writer.then(self._remove, self.filename_tmpl.format(step))

    def _remove(self, name: str) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
