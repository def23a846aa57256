"""A runner that lets a config say things once, and saves beside the training."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from collections.abc import Iterator

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import broadcast, get_rank, get_world_size, is_distributed, master_only
from mmengine.fileio import FileClient, LocalBackend, get_file_backend, join_path
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS, OPTIM_WRAPPERS, RUNNERS
from mmengine.runner import Runner, save_checkpoint
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from swin_ext.checkpoint.resume import checkpoint_to_resume
from swin_ext.checkpoint.writer import CheckpointWriter, copy_to_cpu, remove_unfinished
from swin_ext.config import finalise_config
from swin_ext.engine.checkpoint_loading import load_checkpoint
from swin_ext.engine.checkpoint_saving import collect_checkpoint
from swin_ext.engine.compiled_backbone import compile_backbone
from swin_ext.engine.ddp_options import ddp_options, sync_heads
from swin_ext.engine.distributed.agreement import check_agreement
from swin_ext.engine.distributed.connection import connect
from swin_ext.engine.errors import SettingError
from swin_ext.engine.optim.fused import where_served
from swin_ext.engine.optim.lr_scaling import scale_lr
from swin_ext.engine.optim.update_guard import guarded
from swin_ext.engine.preemption import UndisturbedWorker
from swin_ext.engine.run_config import RunConfig
from swin_ext.engine.schedules import Schedules
from swin_ext.engine.slurm_job import has_begun_before
from swin_ext.engine.terminal import keep_short
from swin_ext.engine.test_folder import folder_of_run
from swin_ext.utils.ranks import on_all_ranks, on_main_process


@RUNNERS.register_module()
class SwinExtRunner(Runner):
    """Runner for configs that are finalised: checked, and shared values handed on.

    Top-level `data_root`, `image_scale`, `num_classes`, `max_epochs` and `max_iters` reach all that
    depends on them; see `swin_ext.config.finalise_config`.

    Checkpoints are written by another thread, whole or not at all (see `CheckpointWriter`). The
    end of `train`, also by an error, waits for it. Resuming takes the newest whole checkpoint.

    A job that Slurm starts again resumes by itself what it had begun in this work dir.

    A top-level `extend_schedule=True` stretches the schedules of a resumed run to its new length.
    `sync_avg_factor=True` averages losses over the samples of all ranks (see `sync_heads`).
    `channels_last=True` lays the maps of neck and heads so in memory (see `use_channels_last`),
    and `compile_backbone` compiles the backbone (see the function of this name).
    """

    @classmethod
    def from_cfg(cls, cfg: Config) -> Runner:
        cfg.work_dir = folder_of_run(cfg)
        return super().from_cfg(RunConfig.of(finalise_config(cfg)))

    def setup_env(self, env_cfg: dict) -> None:
        """Set up as upstream does, but connect ranks on any device, and compare what they run.

        Raises:
            ConnectError: If the ranks do not come together within a minute.
            DisagreementError: If they would not compute the same training.
        """
        if self.distributed and not is_distributed() and get_device() in ('cpu', 'cuda', 'mps'):
            store = connect(self.launcher, env_cfg.get('dist_cfg', {}))
            check_agreement(store, get_rank(), get_world_size(), self.cfg)
        super().setup_env(env_cfg)

    @staticmethod
    def build_dataloader(dataloader: DataLoader | dict, *args, **kwargs) -> DataLoader:
        """Build what upstream builds, with workers that signals to the whole job do not end.

        `pin_memory=True` is left out where there is no CUDA device to pin memory for.
        """
        if isinstance(dataloader, dict) and dataloader.get('pin_memory'):
            dataloader = copy.copy(dataloader)
            dataloader['pin_memory'] = torch.cuda.is_available()
        loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        if not isinstance(loader.worker_init_fn, UndisturbedWorker):
            loader.worker_init_fn = UndisturbedWorker(loader.worker_init_fn)
        return loader

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap as upstream does, on the device in use, with what the config says of ranks."""
        if self.distributed and not is_model_wrapper(model):
            model_wrapper_cfg = ddp_options(self.cfg)
            wrapper = MODEL_WRAPPERS.get(model_wrapper_cfg['type'])
            if inspect.isclass(wrapper) and issubclass(wrapper, DistributedDataParallel):
                on_gpu = get_device() == 'cuda'
                device_ids = [torch.cuda.current_device()] if on_gpu else None
                model_wrapper_cfg.setdefault('device_ids', device_ids)
        if self.cfg.get('sync_avg_factor', False):
            sync_heads(model, self.logger)
        if self.cfg.get('channels_last', False):
            from swin_ext.models.channels_last import use_channels_last  # imports mmdet

            parts = use_channels_last(getattr(model, 'module', model))
            self.logger.info(f'channels_last: maps of {", ".join(parts)} are channels-last.')
        return super().wrap_model(model_wrapper_cfg, model)

    def build_logger(self, *args, **kwargs) -> MMLogger:
        logger = super().build_logger(*args, **kwargs)
        keep_short(logger)
        return logger

    def build_optim_wrapper(self, optim_wrapper):
        """Build what upstream builds, of a class that can leave updates out (`UpdateGuard`).

        `optimizer.fused=True` is left out where PyTorch does not serve it.
        """
        # BackboneFreezeHook: the optimizer takes the parameters that are trainable by now.
        self.call_hook('before_build_optim_wrapper')
        if isinstance(optim_wrapper, dict) and 'optimizer' in optim_wrapper:
            wrapper = optim_wrapper.get('type', 'OptimWrapper')
            wrapper = OPTIM_WRAPPERS.get(wrapper) if isinstance(wrapper, str) else wrapper
            if wrapper is not None:  # upstream says what is wrong with an unknown one
                optim_wrapper = copy.copy(optim_wrapper)
                optim_wrapper['type'] = guarded(wrapper)
            if isinstance(optim_wrapper['optimizer'], dict):
                optim_wrapper = copy.copy(optim_wrapper)
                optim_wrapper['optimizer'] = where_served(optim_wrapper['optimizer'], self.model)
        return super().build_optim_wrapper(optim_wrapper)

    def scale_lr(self, optim_wrapper, auto_scale_lr: dict | None = None) -> None:
        scale_lr(self, optim_wrapper, auto_scale_lr)

    def dump_config(self) -> None:
        on_main_process(super().dump_config)

    @functools.cached_property
    def checkpoint_writer(self) -> CheckpointWriter:
        return CheckpointWriter()

    def train(self) -> torch.nn.Module:
        with self._closing_hooks():
            for name in on_main_process(remove_unfinished, self.work_dir):
                self.logger.info(f'Removed {name}, which a run left that was killed while saving.')
            if on_main_process(has_begun_before, self.work_dir):
                self.logger.info('Slurm has started this job again: it goes on where it was.')
                self._load_from, self._resume = None, True
            model = getattr(self.model, 'module', self.model)
            compile_backbone(model, self.cfg.get('compile_backbone', False), self.logger)
            try:
                model = super().train()
            except BaseException:
                try:
                    self.checkpoint_writer.flush()
                except Exception as error:  # must not hide why training ended
                    self.logger.error(error)
                raise
            on_main_process(self.checkpoint_writer.flush)
            return model

    def val(self) -> dict:
        with self._closing_hooks():
            return super().val()

    def test(self) -> dict:
        with self._closing_hooks():
            return super().test()

    @contextlib.contextmanager
    def _closing_hooks(self) -> Iterator[None]:
        """Call `close(runner)` of each hook that has it, however the run ends.

        Hooks give back there what outlives a run that died: terminals, threads, switches. They
        may not have been started yet, and may have been closed before.
        """
        try:
            yield
        finally:
            for hook in self.hooks:
                try:
                    getattr(hook, 'close', lambda runner: None)(self)
                except Exception as error:  # must not hide why the run ended
                    self.logger.error(f'{type(hook).__name__} was not closed: {error!r}')

    def _init_model_weights(self) -> None:
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if hasattr(model, 'init_weights'):
            on_all_ranks(model.init_weights)
            for tensor in model.state_dict().values():
                broadcast(tensor)

    def load_or_resume(self) -> None:
        if self._resume and not self._has_loaded:
            self._load_from = checkpoint_to_resume(self.work_dir, self._load_from)
            if self._load_from is None:
                return
        super().load_or_resume()

    def resume(self, *args, **kwargs) -> None:
        """Resume as upstream does, and see to schedules of another length."""
        schedules = Schedules(self)
        super().resume(*args, **kwargs)
        if self.cfg.get('extend_schedule', False):
            schedules.stretch()
        else:
            schedules.warn_of_changes()

    def load_checkpoint(self, *args, **kwargs) -> dict:
        """Load what `load_checkpoint` of this package loads; its arguments and errors."""
        return load_checkpoint(self, *args, **kwargs)

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        file_client_args: dict | None = None,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        meta: dict | None = None,
        by_epoch: bool = True,
        backend_args: dict | None = None,
    ) -> None:
        """Save what upstream saves, with its arguments, but write local files in the background.

        Raises:
            CheckpointWriteError: If an earlier checkpoint could not be written.
            SettingError: If both `file_client_args` and `backend_args` are given.
        """
        if file_client_args is not None and backend_args is not None:
            raise SettingError(
                'file_client_args and backend_args say the same: give backend_args alone.'
            )
        if file_client_args is not None:
            path = FileClient.infer_client(file_client_args, out_dir).join_path(out_dir, filename)
        else:
            path = join_path(out_dir, filename, backend_args=backend_args)
        checkpoint = collect_checkpoint(
            self, self.cfg.pretty_text, meta, by_epoch, save_optimizer, save_param_scheduler
        )
        self.call_hook('before_save_checkpoint', checkpoint=checkpoint)
        if (
            '://' not in path
            and file_client_args is None
            and isinstance(get_file_backend(path, backend_args=backend_args), LocalBackend)
        ):
            self.checkpoint_writer.save(checkpoint, path)
        else:
            save_checkpoint(copy_to_cpu(checkpoint), path, file_client_args, backend_args)


def require_writer(runner: Runner, hook: Hook) -> None:
    """Raise `SettingError` if `runner` has no `CheckpointWriter` for `hook` to save with."""
    if not hasattr(type(runner), 'checkpoint_writer'):
        raise SettingError(
            f'{type(hook).__name__} needs a SwinExtRunner, not a '
            f"{type(runner).__name__}: set runner_type='SwinExtRunner'."
        )
