"""Reads weight files of PyTorch, detectron2 and safetensors without running code from them."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np

from swin_ext.checkpoint.safe_reading import (
    CheckpointError,
    RestrictedUnpickler,
    load_checkpoint_file,
    restore_numpy,
)
from swin_ext.utils.errors import UserError


class WeightFileNotFoundError(UserError, FileNotFoundError):
    """There is no such file of weights."""


def _storage_from_bytes(data: bytes):
    """Stand in for `torch.storage._load_from_bytes`, which would unpickle anything."""
    return load_checkpoint_file(io.BytesIO(data), map_location='cpu')


def _array_from_buffer(data: bytearray, dtype, shape: tuple, order: str) -> np.ndarray:
    """Stand in for NumPy's `_frombuffer`, with the stand-in for its dtype."""
    return np.frombuffer(data, dtype.restored).reshape(shape, order=order)


class _PklUnpickler(RestrictedUnpickler):
    """Reads what `pickle.dump` makes of arrays and tensors, where `torch.save` makes other."""

    stand_ins = {
        'torch.storage._load_from_bytes': _storage_from_bytes,
        'numpy.core.numeric._frombuffer': _array_from_buffer,  # NumPy 1
        'numpy._core.numeric._frombuffer': _array_from_buffer,  # NumPy 2
    }

    def find_class(self, module, name):
        path = f'{module}.{name}'
        return self.stand_ins[path] if path in self.stand_ins else super().find_class(module, name)


def _read_pkl(path):
    with open(path, 'rb') as file:
        try:
            return restore_numpy(_PklUnpickler(file).load())
        except CheckpointError as error:  # in the bytes of a storage, where no name is known
            raise CheckpointError(f'{path} was not read: {error}') from error


def _read_safetensors(path):
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f'Reading {path} needs the safetensors package: pip install safetensors'
        ) from error
    return load_file(path)


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint file without running code from it.

    Args:
        path: `.safetensors`; `.pkl` of detectron2 or Mask2Former; any other suffix is read as a
            PyTorch file (`.pth`, `.pt`, `.bin`, `.pth.tar`).

    Returns:
        The file's content: a state dict, or a dict that holds one. Tensors are on the CPU.

    Raises:
        WeightFileNotFoundError: If there is no such file.
        ImportError: If a `.safetensors` file is given and safetensors is not installed.
        CheckpointError: If the file is damaged, asks for other than weights, or holds no dict.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightFileNotFoundError(f'There is no checkpoint file {path}.')
    read = {'.safetensors': _read_safetensors, '.pkl': _read_pkl}.get(path.suffix)
    try:
        checkpoint = read(path) if read else load_checkpoint_file(path, map_location='cpu')
    except (CheckpointError, ImportError, OSError, MemoryError):
        raise
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{path} was not read: {error}. Names after GLOBAL are of code that weights have no '
            'need of. Use a file that holds nothing but arrays or tensors.'
        ) from error
    except Exception as error:  # pickle and safetensors raise many types on a damaged file
        raise CheckpointError(
            f'{path} ({path.stat().st_size} bytes) cannot be read: {type(error).__name__}: '
            f'{error}. If it is cut short, download it again.'
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f'{path} holds a {type(checkpoint).__name__}, not a state dict.')
    return checkpoint
