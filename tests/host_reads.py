"""Where a program makes the host wait for a GPU, found without one, by what it asks of tensors."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Functions of Python whose result is on the host, or of a size that the host has to know.
FUNCTIONS = {
    'item', 'tolist', 'numpy', 'cpu', 'nonzero', 'masked_select', 'unique', 'equal', 'is_nonzero',
    '__bool__', '__float__', '__int__', '__index__', '__array__', '__contains__',
}  # fmt: skip
UPLOADS = {'tensor', 'new_tensor', 'as_tensor'}  # of memory that is not pinned
OPERATIONS = {
    'aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::equal',
    'aten::_unique2', 'aten::unique_dim', 'aten::is_nonzero', 'aten::bincount',
}  # fmt: skip
INDEXING = {'aten::index', 'aten::index_put', 'aten::index_put_', 'aten::_index_put_impl_'}
APART = (os.path.dirname(torch.__file__) + os.sep, os.path.dirname(warnings.__file__) + os.sep)


class Place(NamedTuple):
    file: str
    line: int
    function: str
    what: str


def place(what: str) -> Place:
    """The innermost line that is neither PyTorch's, nor Python's, nor of this file."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_code.co_filename
        own = name == __file__ or name.startswith('<')
        in_library = name.startswith(APART) and 'site-packages' not in name.removeprefix(APART[1])
        if not (own or in_library or name.startswith(APART[0])):
            return Place(name, frame.f_lineno, frame.f_code.co_name, what)
        frame = frame.f_back
    return Place('?', 0, '?', what)


class _Operations(TorchDispatchMode):
    def __init__(self, found: set[Place]):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        masked = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        sizes = name == 'aten::repeat_interleave' and kwargs.get('output_size') is None
        if name in OPERATIONS or masked or sizes:
            self.found.add(place(name.removeprefix('aten::')))
        return func(*args, **(kwargs or {}))


class _Functions(TorchFunctionMode):
    def __init__(self, found: set[Place]):
        super().__init__()
        self.found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, '__name__', '')
        # A device is that of other tensors, which is another one on CUDA; a text says what it says.
        texts = (each for each in (*args[1:], *(kwargs or {}).values()) if isinstance(each, str))
        to_host = name == 'to' and 'cpu' in texts
        keys = args[1] if name in ('__getitem__', '__setitem__') else ()
        by_list = any(
            isinstance(key, list) for key in (keys if isinstance(keys, tuple) else [keys])
        )
        if name in FUNCTIONS | UPLOADS or to_host or by_list:
            self.found.add(place(name))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_reads() -> Iterator[set[Place]]:
    """Within, what would wait for a GPU if all tensors were there; on any device."""
    found: set[Place] = set()
    with _Operations(found), _Functions(found):
        yield found


@contextlib.contextmanager
def cuda_waits() -> Iterator[set[Place]]:
    """Within, what does wait for the GPU, as PyTorch has it."""
    found: set[Place] = set()
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = lambda message, *_, **__: (
            found.add(place('waits')) if 'synchron' in str(message) else None
        )
        torch.cuda.set_sync_debug_mode('warn')
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
