"""Reads weight files of PyTorch, detectron2 and safetensors without running code from them."""
from __future__ import annotations

import codecs
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch


def _storage_from_bytes(data: bytes):
    """Stand in for `torch.storage._load_from_bytes`, which would unpickle anything."""
    return torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)


# What NumPy arrays and tensors are pickled by. NumPy 2 renamed `numpy.core` to `numpy._core`.
_PICKLE_GLOBALS = {
    'collections.OrderedDict': OrderedDict,
    '_codecs.encode': codecs.encode,
    'numpy.ndarray': np.ndarray,
    'numpy.dtype': np.dtype,
    'torch._utils._rebuild_tensor_v2': torch._utils._rebuild_tensor_v2,
    'torch._utils._rebuild_parameter': torch._utils._rebuild_parameter,
    'torch.storage._load_from_bytes': _storage_from_bytes,
}
for _package in ('numpy.core', 'numpy._core'):
    _PICKLE_GLOBALS.update({
        f'{_package}.multiarray._reconstruct': np.zeros(1).__reduce__()[0],
        f'{_package}.multiarray.scalar': np.float32(0).__reduce__()[0],
        f'{_package}.numeric._frombuffer': np.zeros(1).__reduce_ex__(5)[0],
    })


class _ArrayUnpickler(pickle.Unpickler):
    """Reads dicts of arrays and tensors, and refuses to import anything else."""

    def find_class(self, module, name):
        try:
            return _PICKLE_GLOBALS[f'{module}.{name}']
        except KeyError:
            raise pickle.UnpicklingError(
                f'it refers to {module}.{name}, which weights have no need of, and which could '
                'run foreign code') from None


def _read_pkl(path):
    with open(path, 'rb') as file:
        # detectron2's model zoo was pickled by Python 2
        return _ArrayUnpickler(file, encoding='latin1').load()


def _read_safetensors(path):
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ImportError(
            f'Reading {path} needs the safetensors package: pip install safetensors') from error
    return load_file(path)


def _read_torch(path):
    return torch.load(path, map_location='cpu', weights_only=True)


def read_checkpoint(path: str | os.PathLike) -> dict:
    """Read a checkpoint file without running code from it.

    Args:
        path: `.safetensors`; `.pkl` of detectron2 or Mask2Former; any other suffix is read as a
            PyTorch file (`.pth`, `.pt`, `.bin`, `.pth.tar`).

    Returns:
        The file's content: a state dict, or a dict that holds one. Tensors are on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If a `.safetensors` file is given and safetensors is not installed.
        ValueError: If the file is damaged, holds other than weights, or is not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no checkpoint file {path}.')
    read = {'.safetensors': _read_safetensors, '.pkl': _read_pkl}.get(path.suffix, _read_torch)
    try:
        checkpoint = read(path)
    except (ImportError, OSError, MemoryError):
        raise
    except Exception as error:  # pickle and safetensors raise many types on a damaged file
        with path.open('rb') as file:
            start = file.read(24)
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes, starting with {start!r}) cannot be read as '
            f'weights: {error}. Where a download was cut short, download it again.') from error
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a state dict.')
    return checkpoint
