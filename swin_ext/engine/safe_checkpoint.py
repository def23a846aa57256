"""Safe and complete checkpoint loading for MMEngine 0.10.7.

MMEngine calls ``torch.load`` without ``weights_only``. From PyTorch 2.6 on, its own checkpoints
(history buffers, NumPy values) are then rejected; before 2.6, and for every checkpoint given by
URL, any code in the file is run. See https://github.com/open-mmlab/mmengine/issues/1655. Delete
the first half of this module, down to "Loading weights into the model", once MMEngine loads its
checkpoints with ``weights_only=True``.

The second half makes :class:`~mmengine.runner.Runner` say which weights it loaded, and stop
where MMEngine would go on with a model which is only partly loaded.
"""

from __future__ import annotations

import _codecs
import collections
import contextlib
import dataclasses
import io
import logging
import os
import pickle
import re
import types
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.runner import BaseLoop, Runner
from mmengine.utils import digit_version

from .download import DownloadError, download

MIN_MATCHED_BACKBONE = 0.95  # of the tensors that the model or the file has; below: another one
NUM_LISTED = 6  # names given in full in a message

_LEGACY_MAGIC = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_ZIP_MAGIC = b'PK\x03\x04'
_UNREQUIRED = 'num_batches_tracked'  # of batch norm; MMEngine, too, loads without

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

_NOT_DOWNLOADED = """\
The checkpoint cannot be downloaded: {reason} Without network, download it elsewhere and \
give its path, e.g. --cfg-options load_from=/path/to/file.pth (or that of the `init_cfg` which \
names the URL), or train from scratch: --cfg-options load_from=None."""


class CheckpointError(RuntimeError):
    """A checkpoint that is unsafe, unreadable, out of reach, or of another model."""


def patch_mmengine() -> None:
    """Make every checkpoint that MMEngine reads go through this module.

    Covers local files, ``http(s)://``, ``s3://``, ``petrel://``, ``pavi://``, ``torchvision://``,
    ``open-mmlab://`` and ``mmcls://``, whether for ``load_from``, ``resume``, testing or
    ``init_cfg``. Calling it again changes nothing.
    """
    # The module uses `torch` for these three alone.
    mmengine_checkpoint.torch = types.SimpleNamespace(
        load=load_checkpoint_file, save=torch.save, distributed=torch.distributed
    )
    mmengine_checkpoint.load_url = _load_url
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        prefixes='', loader=load_from_local, force=True
    )
    Runner.load_checkpoint = _load_checkpoint


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


def load_from_local(filename: str, map_location: Any) -> Any:
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"The checkpoint '{filename}' does not exist (working directory: {os.getcwd()}). "
            'Correct `load_from`, `init_cfg` or the checkpoint argument; on `--resume`, the path '
            'comes from the file `last_checkpoint` in the work_dir.'
        )
    return load_checkpoint_file(path, map_location)


def _load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> Any:
    """Replace ``torch.hub.load_state_dict_from_url``, which loads with ``weights_only=False``."""
    cache_dir = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    try:
        path = download(url, cache_dir)
    except DownloadError as error:
        raise CheckpointError(_NOT_DOWNLOADED.format(url=url, reason=error)) from error
    return load_checkpoint_file(path, map_location)


# Loading weights into the model


def _load_checkpoint(
    runner: Runner,
    filename: str,
    map_location: Any = 'cpu',
    strict: bool = False,
    revise_keys: Iterable[tuple[str, str]] = ((r'^module\.', ''),),
) -> dict:
    """Replace ``Runner.load_checkpoint``: report what was loaded, refuse half-loaded models.

    Args:
        runner: The runner whose model is loaded.
        filename: Path or URL.
        map_location: As for :func:`torch.load`.
        strict: Whether fine-tuning, too, requires that every tensor fits.
        revise_keys: Pairs (pattern, replacement) applied to the names in the file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: The file holds no weights, or not what is needed to resume; fewer than
            95 % of the backbone's tensors fit; or any tensor does not fit and this is not
            fine-tuning, i.e. :meth:`Runner.train` with ``load_from`` and without ``resume``.
    """
    checkpoint = mmengine_checkpoint._load_checkpoint(filename, map_location=map_location)
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(
            f"'{filename}' holds no state_dict, but a {type(checkpoint).__name__}. Give a "
            'checkpoint written by MMEngine, or a dict of names and tensors.'
        )
    absent = [key for key in ('meta', 'message_hub') if key not in checkpoint]
    if runner._resume and absent:
        raise CheckpointError(
            f"Cannot resume from '{filename}': it holds weights, but no {' and no '.join(absent)} "
            'of an interrupted training. To start a new training from it, give it as load_from, '
            'without resume.'
        )
    if weights is checkpoint:
        checkpoint = {'state_dict': weights}
    runner.call_hook('after_load_checkpoint', checkpoint=checkpoint)

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    outcome = _load_weights(model, checkpoint, revise_keys)
    report = f"Load checkpoint from '{filename}': {outcome.report()}"
    exact = not (outcome.unfit or outcome.unexpected)
    runner.logger.log(logging.INFO if exact else logging.WARNING, report)
    if not outcome.is_same_architecture():
        raise CheckpointError(
            f'The checkpoint is of another architecture. {report}\n'
            f'The model has, e.g.: {_listed(outcome.unfit, outcome.in_model)}.\n'
            f'The file has, e.g.: {_listed(outcome.in_file, outcome.in_file)}.\n'
            'Use the config that the file was trained with. Weights of a backbone alone are given '
            "to model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...), not to load_from."
        )
    fine_tuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
    if not exact and (strict or not fine_tuning):
        raise CheckpointError(
            f'The checkpoint does not fit the model, as testing and resuming require. {report}\n'
            'Use the config that the file was trained with, with the same num_classes. To '
            'fine-tune from it, train with load_from and without resume.'
        )
    runner._has_loaded = True
    return checkpoint


@dataclasses.dataclass
class _Outcome:
    """How the tensors of a file fitted a model. Names are the model's, shapes are by name."""

    in_model: dict[str, list[int]]
    in_file: dict[str, list[int]]
    reshaped: list[str]
    missing: list[str]
    unexpected: list[str]

    @property
    def unfit(self) -> list[str]:
        return self.reshaped + self.missing

    def is_same_architecture(self) -> bool:
        backbone = {name for name in self.in_model if name.startswith('backbone.')}
        if not backbone:  # any part may be the head, but not everything
            return len(self.unfit) < len(self.in_model) or not self.in_model
        # The file's surplus counts: all tensors of a Swin-T are among those of a Swin-S.
        surplus = [name for name in self.unexpected if name.startswith('backbone.')]
        num_all = len(backbone) + len(surplus)
        return len(backbone.difference(self.unfit)) >= MIN_MATCHED_BACKBONE * num_all

    def report(self) -> str:
        num_loaded = len(self.in_model) - len(self.unfit)
        reshaped = [
            f'{name} {self.in_file.get(name, "")} -> {self.in_model.get(name, "")}'
            for name in self.reshaped
        ]
        return (
            f'{num_loaded} of the {len(self.in_model)} tensors of the model loaded; '
            f'{len(reshaped)} re-initialised for their other shape ({_listed(reshaped)}); '
            f'{len(self.missing)} missing in the file ({_listed(self.missing)}); '
            f'{len(self.unexpected)} in the file alone ({_listed(self.unexpected)}).'
        )


def _load_weights(
    model: torch.nn.Module, checkpoint: dict, revise_keys: Iterable[tuple[str, str]]
) -> _Outcome:
    """Load as MMEngine does, and keep what it only logs."""
    seen = {}

    def keep(state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        # MMEngine fills the three lists later, by what each module finds after its own renaming.
        seen.update(missing=missing, unexpected=unexpected, errors=errors)
        seen.update(in_file=_shapes(state_dict))

    unwrapped = model
    while is_model_wrapper(unwrapped) or isinstance(unwrapped, BaseTTAModel):
        unwrapped = unwrapped.module
    hook = unwrapped._register_load_state_dict_pre_hook(keep)
    try:
        mmengine_checkpoint._load_checkpoint_to_model(
            model, checkpoint, logger='silent', revise_keys=revise_keys
        )
    finally:
        hook.remove()
    named = re.compile(r'\s*(?:size mismatch for |While copying the parameter named ")([^\s":]+)')
    return _Outcome(
        in_model=_shapes(unwrapped.state_dict()),
        in_file=seen['in_file'],
        reshaped=[match[1] for match in map(named.match, seen['errors']) if match],
        missing=[name for name in seen['missing'] if not name.endswith(_UNREQUIRED)],
        unexpected=seen['unexpected'],
    )


def _shapes(state_dict: dict) -> dict[str, list[int]]:
    return {
        name: list(getattr(tensor, 'shape', ()))
        for name, tensor in state_dict.items()
        if not name.endswith(_UNREQUIRED)
    }


def _listed(names: Iterable[str], shapes: dict[str, list[int]] | None = None) -> str:
    names = [f'{name} {shapes.get(name, "")}' if shapes else name for name in names]
    more = f' and {len(names) - NUM_LISTED} more' if len(names) > NUM_LISTED else ''
    return ', '.join(names[:NUM_LISTED]) + more if names else 'none'
