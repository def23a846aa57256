"""Writes checkpoints beside the training, so that a kill or a full disk leaves the earlier ones."""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log

from swin_ext.utils import files
from swin_ext.utils.errors import UserError

LAST_CHECKPOINT = 'last_checkpoint'  # file in the work dir that names the newest checkpoint
LONG_WAIT_SECONDS = 1.0


class CheckpointWriteError(UserError, RuntimeError):
    """A checkpoint that could not be written; those before it are untouched."""


class CheckpointWriter:
    """Writes checkpoints from a thread of its own, one after the other.

    The training thread pays for a copy of the checkpoint in memory, and for the wait where the
    checkpoint before it is still being written: there is never more than one copy. After a failure
    nothing that was queued behind it is done, and the next call from the training thread raises
    it. What is queued when the interpreter ends normally is still written.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix='checkpoint_writer')
        self._failure: Exception | None = None

    def save(self, checkpoint: dict, path: str | os.PathLike) -> None:
        """Copy `checkpoint` to CPU memory, and queue the writing of the copy.

        Raises:
            CheckpointWriteError: If an earlier checkpoint could not be written.
        """
        start = time.perf_counter()
        self.flush()
        waited = time.perf_counter() - start
        if waited > LONG_WAIT_SECONDS:
            print_log(
                f'Training waited {waited:.1f} s for the checkpoint before {path} to be '
                'written. Save less often, or to a faster disk.',
                'current',
                logging.WARNING,
            )
        self.then(write_checkpoint, copy_to_cpu(checkpoint), path)

    def then(self, action: Callable, *args: Any) -> None:
        """Queue `action(*args)` behind what is queued; it is left out if any of that fails."""
        self._thread.submit(self._run, action, args)

    def check(self) -> None:
        """Raise the failure of an earlier save; without one, wait for nothing."""
        if self._failure is not None:
            self.flush()

    def flush(self) -> None:
        """Wait until all that is queued is on the disk.

        Raises:
            CheckpointWriteError: If a checkpoint could not be written.
        """
        self._thread.submit(int).result()
        if self._failure is not None:  # and all that was queued behind it has been left out
            failure, self._failure = self._failure, None
            raise failure

    def _run(self, action: Callable, args: tuple) -> None:
        if self._failure is None:
            try:
                action(*args)
            except Exception as error:
                self._failure = error


def write_checkpoint(checkpoint: dict, path: str | os.PathLike) -> None:
    """Write `checkpoint` as `torch.save` does, `path` being whole or as before at any moment."""
    with replacing(path) as file:
        torch.save(checkpoint, file)


def write_last_checkpoint(work_dir: str | os.PathLike, checkpoint: str) -> None:
    """Let the file `last_checkpoint` of the work dir name `checkpoint`."""
    with replacing(Path(work_dir, LAST_CHECKPOINT)) as file:
        file.write(str(checkpoint).encode())


def copy_to_cpu(value: Any) -> Any:
    """Copy nested containers; tensors become CPU tensors that share memory only with each other."""
    return _copied(value, {})


def _copied(value: Any, copies: dict) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            return value.detach().to('cpu', copy=True)
        # Tied weights are copied, and written, once.
        view = (value.device, value.dtype, value.data_ptr(), value.shape, value.stride())
        if view not in copies:
            copies[view] = value.detach().to('cpu', copy=True)
        return copies[view]
    if isinstance(value, dict):
        copied = copy.copy(value)  # keeps the type, and the `_metadata` of a state dict
        for key, item in value.items():
            copied[key] = _copied(item, copies)
        return copied
    if type(value) in (list, tuple):
        return type(value)(_copied(item, copies) for item in value)
    return copy.deepcopy(value)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[files.WholeWrites]:
    """Open a file beside `path`, which takes the place of `path` once it is whole on the disk.

    Raises:
        CheckpointWriteError: If it cannot be written. `path` is as before.
    """
    try:
        with files.replacing(path) as file:
            yield file
    except Exception as error:
        folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
        raise CheckpointWriteError(
            f'{Path(path).absolute()} was not written: {type(error).__name__}: {error}. '
            f'{shutil.disk_usage(folder).free / 2**20:.0f} MiB are free in {folder}. Earlier '
            f'checkpoints and {LAST_CHECKPOINT} are as they were. If the disk is full, free some '
            'space or keep fewer checkpoints (max_keep_ckpts, top_k), then go on with --resume.'
        ) from error


def remove_unfinished(folder: str | os.PathLike) -> list[str]:
    """Delete what a run that was killed while saving to `folder` left; return the names."""
    unfinished = sorted(Path(folder).glob(f'*{files.ASIDE}'))
    for path in unfinished:
        path.unlink(missing_ok=True)
    return [path.name for path in unfinished]
