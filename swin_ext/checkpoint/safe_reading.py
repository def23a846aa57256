"""Reads checkpoints of MMEngine 0.10.7 without running code from them.

MMEngine calls ``torch.load`` without ``weights_only``. From PyTorch 2.6 on, its own checkpoints
(history buffers, NumPy values) are then rejected; before 2.6, and for every checkpoint given by
URL, any code in the file is run. See https://github.com/open-mmlab/mmengine/issues/1655. Delete
this module once MMEngine loads its checkpoints with ``weights_only=True``.
"""

from __future__ import annotations

import _codecs
import collections
import contextlib
import io
import os
import pickle
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.utils import digit_version

from swin_ext.utils.errors import UserError

_LEGACY_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_ZIP_MAGIC = b'PK\x03\x04'

_REFUSED = """\
Refused to load the checkpoint '{file}': it asks for '{name}', which is none of the types that \
MMEngine writes into its checkpoints. No code of the file was run. What to do:
  - ask whoever made the file for one that holds nothing but the state_dict, or
  - convert it where it can do no harm (a container without network and without your files): \
c = torch.load('in.pth', weights_only=False); torch.save(c['state_dict'], 'out.pth'), or
  - if you wrote '{name}' yourself and trust the file, allow it before loading, with \
torch.serialization.add_safe_globals([...]) (PyTorch 2.6 or later)."""

_UNREADABLE = """\
'{file}' ({size} bytes) cannot be read as a PyTorch checkpoint: {reason}. If it is truncated or \
damaged (compare its size with the original), delete it and copy or download it again."""


class CheckpointError(UserError, RuntimeError):
    """A checkpoint that is unsafe, unreadable, out of reach, or of another model."""


def load_checkpoint_file(file: str | os.PathLike | BinaryIO, map_location: Any = None) -> Any:
    """Read a checkpoint without running any code that it may carry.

    Tensors, plain Python containers and what MMEngine itself writes (``HistoryBuffer``,
    ``ConfigDict``, arrays and scalars of numbers or strings of NumPy 1 and 2) are accepted, in the
    zip and in the legacy format of ``torch.save``.

    Args:
        file: A path, or a binary stream.
        map_location: As for :func:`torch.load`.

    Returns:
        What was saved, usually the dict with ``state_dict`` and ``meta``.

    Raises:
        CheckpointError: The file asks for anything else, or is not a whole checkpoint.
    """
    opened = open(file, 'rb') if isinstance(file, (str, os.PathLike)) else None
    with opened or contextlib.nullcontext(file) as stream:
        name = file if opened else getattr(file, 'name', 'a downloaded file')
        size = stream.seek(0, io.SEEK_END)
        try:
            _check_format(stream)
            return restore_numpy(_torch_load(stream, map_location))
        except Exception as error:
            refused = re.search(r'GLOBAL (\S+)', str(error))
            if isinstance(error, pickle.UnpicklingError) and refused:
                # PyTorch leaves out the module of a builtin.
                asked = refused[1] if '.' in refused[1] else f'builtins.{refused[1]}'
                raise CheckpointError(_REFUSED.format(file=name, name=asked)) from error
            lines = str(error).split('WeightsUnpickler error: ')[-1].strip().splitlines()
            reason = ': '.join([type(error).__name__, *lines[:1]]).rstrip('.')
            message = _UNREADABLE.format(file=name, size=size, reason=reason)
            raise CheckpointError(message) from error


def _check_format(stream: BinaryIO) -> None:
    """Reject what ``torch.load`` would hand to a reader other than the restricted unpickler."""
    stream.seek(0)
    head = stream.read(len(_LEGACY_MAGIC))
    stream.seek(0)
    if head.startswith(_ZIP_MAGIC):
        if 'constants.pkl' in torch._C.PyTorchFileReader(stream).get_all_records():
            raise ValueError('it is a TorchScript archive, i.e. a program')
        stream.seek(0)
    elif head != _LEGACY_MAGIC:
        raise ValueError(f'it starts with {head!r}, as no file written by torch.save does')


def _torch_load(stream: BinaryIO, map_location: Any) -> Any:
    if digit_version(torch.__version__) < digit_version('2.6'):
        # `weights_only` can there neither rebuild HistoryBuffer nor give `getattr` another meaning.
        return torch.load(stream, map_location=map_location, pickle_module=_RestrictedPickle)
    serialization = torch.serialization
    allowed_by_user = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        # Ours last and alone under their names: PyTorch keeps them in a set, without an order.
        serialization.add_safe_globals(
            [item for item in allowed_by_user if _global_name(item) not in _ALLOWED_GLOBALS]
            + [(stand_in, name) for name, stand_in in _ALLOWED_GLOBALS.items()]
        )
        return torch.load(stream, map_location=map_location, weights_only=True)
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(allowed_by_user)


def _global_name(item: Any) -> str:
    return item[1] if isinstance(item, tuple) else f'{item.__module__}.{item.__qualname__}'


class _PickledDtype:
    """Stand-in for ``numpy.dtype``, whose own ``__setstate__`` lets a file forge object pointers.

    Changing the flags of a dtype makes NumPy read the raw bytes of an array as addresses.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        if not re.fullmatch(r'[biufcSU]\d+', code):
            raise pickle.UnpicklingError(f"GLOBAL numpy.dtype('{code}')")
        self.restored = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.restored = self.restored.newbyteorder(state[1])


class _PickledArray:
    """Stand-in for ``numpy.ndarray`` until the file is read; see :func:`restore_numpy`."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        flat = np.frombuffer(data, dtype.restored) if data else np.empty(0, dtype.restored)
        array = flat.reshape(shape, order='F' if is_fortran else 'C')
        self.restored = array.astype(dtype.restored.newbyteorder('='))  # a copy of the same order


def _reconstruct(array_type: type, shape: tuple, code: bytes) -> _PickledArray:
    return _PickledArray()


def _scalar(dtype: _PickledDtype, data: bytes) -> np.generic:
    return np.frombuffer(data, dtype.restored)[0]


def _no_bytes() -> bytes:
    return b''


def _known_method(owner: type, name: str) -> Callable:
    """Stand-in for ``getattr``, with which pickle writes methods, limited to MMEngine's own."""
    known = {
        HistoryBuffer: ('min', 'max', 'current', 'mean'),
        OneCycleParamScheduler: ('_annealing_cos', '_annealing_linear'),
    }
    if name not in known.get(owner, ()):
        owner_name = getattr(owner, '__qualname__', type(owner).__qualname__)
        raise pickle.UnpicklingError(f"GLOBAL builtins.getattr({owner_name},'{name}')")
    return getattr(owner, name)


# Name in the file -> what it stands for. Add nothing that could run code with the arguments or
# the state that a file chooses.
_ALLOWED_GLOBALS = {
    'mmengine.logging.history_buffer.HistoryBuffer': HistoryBuffer,
    'mmengine.config.config.ConfigDict': ConfigDict,  # nested dicts of a data set's `metainfo`
    'mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler': OneCycleParamScheduler,
    'builtins.getattr': _known_method,
    'builtins.bytes': _no_bytes,  # of an empty array
    'numpy.dtype': _PickledDtype,
    'numpy.ndarray': _PickledArray,
    'numpy.core.multiarray._reconstruct': _reconstruct,  # written by NumPy 1
    'numpy.core.multiarray.scalar': _scalar,
    'numpy._core.multiarray._reconstruct': _reconstruct,  # written by NumPy 2
    'numpy._core.multiarray.scalar': _scalar,
}


def restore_numpy(value: Any) -> Any:
    """Put the arrays in place of their stand-ins, inside of containers and history buffers."""
    if isinstance(value, (_PickledArray, _PickledDtype)):
        return value.restored
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = restore_numpy(item)
    elif isinstance(value, HistoryBuffer):
        restore_numpy(vars(value))
    elif isinstance(value, list):
        value[:] = [restore_numpy(item) for item in value]
    elif type(value) is tuple:
        return tuple(restore_numpy(item) for item in value)
    return value


class RestrictedUnpickler(pickle._Unpickler):
    """Builds what is allowed, and nothing else: plain pickles, and PyTorch before 2.6."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        path = f'{module}.{name}'.replace('__builtin__.', 'builtins.', 1)
        allowed = self._allowed()
        if path not in allowed:
            raise pickle.UnpicklingError(f'GLOBAL {path}')
        return allowed[path]

    def load_build(self) -> None:
        # Setting attributes on a class or on a function would change it for the whole process.
        if type(self.stack[-2]) not in self._allowed().values():
            raise pickle.UnpicklingError(f'cannot set the state of a {type(self.stack[-2])}')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build

    @staticmethod
    def _allowed() -> dict[str, Any]:
        return {
            **torch._weights_only_unpickler._get_allowed_globals(),
            'collections.Counter': collections.Counter,
            '_codecs.encode': _codecs.encode,  # bytes
            'builtins.bytearray': bytearray,
            'builtins.complex': complex,
            'builtins.set': set,
            **_ALLOWED_GLOBALS,
        }


class _RestrictedPickle:
    """What ``torch.load`` needs of a ``pickle_module``."""

    Unpickler = RestrictedUnpickler

    @staticmethod
    def load(stream: BinaryIO, **kwargs: Any) -> Any:
        return RestrictedUnpickler(stream, **kwargs).load()
