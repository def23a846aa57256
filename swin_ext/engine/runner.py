"""A runner that lets a config say things once, and saves beside the training."""

from __future__ import annotations

import functools
from unittest import mock

import mmengine.runner.runner as mmengine_runner
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process, master_only
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, save_checkpoint

from swin_ext.checkpoint.resume import checkpoint_to_resume
from swin_ext.checkpoint.writer import CheckpointWriter, copy_to_cpu, remove_unfinished
from swin_ext.engine.checkpoint_loading import load_checkpoint
from swin_ext.engine.terminal import keep_short
from swin_ext.engine.test_folder import folder_of_run


@RUNNERS.register_module()
class SwinExtRunner(Runner):
    """Runner for configs with top-level `data_root`, `num_classes` and `max_epochs`.

    Variables of a text config are resolved before `--cfg-options` is merged, so a value given
    there would not reach the places that were written in terms of it. This runner hands them on
    once the config is complete: `data_root` to every data set that has none, `num_classes` to
    every part of the model that has one, `max_epochs` to the train loop and to schedulers that
    count `total_steps` in epochs.

    Checkpoints are written by another thread, whole or not at all (see `CheckpointWriter`). The
    end of `train`, also by an error, waits for it. Resuming takes the newest whole checkpoint.
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        cfg.work_dir = folder_of_run(cfg)
        for split in ('train', 'val', 'test'):
            dataloader = cfg.get(f'{split}_dataloader')
            if dataloader and 'data_root' in cfg:
                set_data_root(dataloader.dataset, cfg.data_root)
        if 'num_classes' in cfg:
            set_num_classes(cfg.model, cfg.num_classes)
        if 'max_epochs' in cfg:
            cfg.train_cfg.max_epochs = cfg.max_epochs
            for scheduler in cfg.get('param_scheduler') or []:
                if 'total_steps' in scheduler and scheduler.get('by_epoch', True):
                    scheduler.total_steps = cfg.max_epochs
        return super().from_cfg(cfg)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        keep_short(logger)
        return logger

    def build_optim_wrapper(self, optim_wrapper):
        # BackboneFreezeHook: the optimizer takes the parameters that are trainable by now.
        self.call_hook('before_build_optim_wrapper')
        return super().build_optim_wrapper(optim_wrapper)

    _formatted = None, None  # the config as it was, and its text

    @functools.cached_property
    def checkpoint_writer(self) -> CheckpointWriter:
        return CheckpointWriter()

    def train(self) -> torch.nn.Module:
        if is_main_process():
            for name in remove_unfinished(self.work_dir):
                self.logger.info(f'Removed {name}, which a run left that was killed while saving.')
        try:
            model = super().train()
        except BaseException:
            try:
                self.checkpoint_writer.flush()
            except Exception as error:  # must not hide why training ended
                self.logger.error(error)
            raise
        self.checkpoint_writer.flush()
        return model

    def load_or_resume(self) -> None:
        if self._resume and not self._has_loaded:
            self._load_from = checkpoint_to_resume(self.work_dir, self._load_from)
            if self._load_from is None:
                return
        super().load_or_resume()

    def load_checkpoint(self, *args, **kwargs) -> dict:
        """Load what `load_checkpoint` of this package loads; its arguments and errors."""
        return load_checkpoint(self, *args, **kwargs)

    @master_only
    def save_checkpoint(self, *args, **kwargs) -> None:
        """Save as upstream does, but write local files in the background.

        Raises:
            CheckpointWriteError: If an earlier checkpoint could not be written.
        """
        # Upstream would copy what is on a GPU, and nothing that is not; the writer copies all.
        # It would also format the config each time, which takes longer than the copy.
        with (
            mock.patch.multiple(
                mmengine_runner,
                save_checkpoint=self._write_checkpoint,
                weights_to_cpu=_as_it_is,
                apply_to=_as_it_is,
            ),
            mock.patch.object(Config, 'pretty_text', self._config_text()),
        ):
            super().save_checkpoint(*args, **kwargs)

    def _config_text(self) -> str:
        content = repr(self.cfg)
        if content != self._formatted[0]:
            self._formatted = content, self.cfg.pretty_text
        return self._formatted[1]

    def _write_checkpoint(
        self,
        checkpoint: dict,
        path: str,
        file_client_args: dict | None = None,
        backend_args: dict | None = None,
    ) -> None:
        if (
            '://' not in path
            and file_client_args is None
            and isinstance(get_file_backend(path, backend_args=backend_args), LocalBackend)
        ):
            self.checkpoint_writer.save(checkpoint, path)
        else:
            save_checkpoint(copy_to_cpu(checkpoint), path, file_client_args, backend_args)


def _as_it_is(value, *_):
    return value


def set_data_root(dataset: dict, data_root: str) -> None:
    """Give `data_root` to a data set config, or to those inside a wrapper, that has none."""
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    for child in inner:
        set_data_root(child, data_root)
    if not inner:
        dataset.setdefault('data_root', data_root)


def set_num_classes(model, num_classes: int) -> None:
    """Replace each `num_classes` inside a model config."""
    if isinstance(model, dict):
        for key, value in model.items():
            if key == 'num_classes':
                model[key] = num_classes
            else:
                set_num_classes(value, num_classes)
    elif isinstance(model, (list, tuple)):
        for value in model:
            set_num_classes(value, num_classes)


def require_writer(runner: Runner, hook: Hook) -> None:
    """Raise `ValueError` if `runner` has no `CheckpointWriter` for `hook` to save with."""
    if not hasattr(type(runner), 'checkpoint_writer'):
        raise ValueError(
            f'{type(hook).__name__} needs a SwinExtRunner, not a '
            f"{type(runner).__name__}: set runner_type='SwinExtRunner'."
        )
