"""`attn_impl='auto'`: the fastest implementation of each case, measured when it is first met.

A case is what speed depends on: device, types, direction, channels, heads, window, whether there is
a shift and padding, and the number of windows to a power of two, so that images of many sizes make
few cases. On a CPU, small maps take the default, and the first large map of each type and direction
answers for all large ones: by default with advice alone, for there a resumed run computes what the
uninterrupted one would have to the last bit, and a choice by the clock could round otherwise.

Ranks of a distributed run agree: the first one to have measured a case writes its choice into the
key-value store that the group was formed with, and the others read it there. They do not wait for
one another, as they would in a broadcast, which ranks with images of other sizes never join.

docs/kernels.md describes the file of choices.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from mmengine.dist import is_main_process
from mmengine.logging import print_log

from swin_ext.models.attention import measuring
from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing_text
from swin_ext.utils.shared_store import store_of_ranks

VARIABLE = 'SWIN_EXT_ATTENTION_CHOICES'  # environment variable: path of the file of choices
DEFAULT = 'eager'
# The interpreter of Triton, on a CPU, is for tests.
MEASURED = {'cpu': ('eager', 'sdpa'), 'cuda': ('eager', 'sdpa', 'triton')}
# Another one has to be faster by this factor, so that chance does not change results.
LEAST_GAIN = 1.1
LARGE_ON_CPU = 2**20  # numbers of a map from which on a measurement is worth its time


class AttentionChoicesError(UserError, ValueError):
    """A file of choices that cannot be used."""


class Case(NamedTuple):
    """What speed depends on; numbers are 0 where any are meant."""

    device: str
    dtype: str
    direction: str
    attention: str
    channels: int
    heads: int
    window: int
    is_shifted: bool
    is_padded: bool
    windows: int


def case_of(problem: Problem, is_cosine: bool, is_training: bool) -> Case:
    """The case that a problem belongs to."""
    on_cuda = problem.device.type == 'cuda'
    case = Case(
        device=torch.cuda.get_device_name(problem.device) if on_cuda else problem.device.type,
        dtype=str(problem.dtype).replace('torch.', ''),
        direction='training' if is_training else 'forward',
        attention='cosines' if is_cosine else 'products',
        channels=0,
        heads=0,
        window=0,
        is_shifted=False,
        is_padded=False,
        windows=0,
    )
    if not on_cuda:
        return case
    windows = problem.windows
    H, W = windows.size
    number = problem.shape[0] * -(-H // windows.window) * -(-W // windows.window)
    return case._replace(
        channels=problem.shape[-1],
        heads=problem.num_heads,
        window=windows.window,
        is_shifted=any(windows.shift),
        is_padded=windows.has_padding(),
        windows=1 << max(number, 1).bit_length() - 1,
    )


class Choices:
    """Choices of a process, and of a file if there is one.

    Args:
        path: Read now, and extended by the main process when a choice is made.
        measure: As `measuring.measure`.

    Raises:
        AttentionChoicesError: If the file cannot be read as what `Choices` writes.
    """

    def __init__(self, path: Path | None = None, measure: Callable = measuring.measure):
        self._path = path
        self._measure = measure
        self._given = {} if path is None else read_choices(path)
        self._made: dict[Case, str] = {}
        self._lock = threading.Lock()

    def choose(
        self,
        problem: Problem,
        x_dtype: torch.dtype,
        terms: AttentionTerms,
        is_training: bool,
        implementations: dict[str, ModuleType],
    ) -> str:
        """The name of the implementation for a problem, the same ever after.

        Raises:
            AttentionChoicesError: If the file names one that does not serve.
        """
        is_cosine = terms.logit_scale is not None
        case = case_of(problem, is_cosine, is_training)
        if case in self._given:
            name = self._given[case]
            reason = (
                implementations[name].refusal(problem)
                if name in implementations
                else (f'there are {", ".join(implementations)}')
            )
            if reason is not None:
                raise AttentionChoicesError(
                    f'{self._path}: {name!r} is chosen for {_in_words(case)}, but {reason}. '
                    'Remove the entry, and it is measured anew.'
                )
            return name
        with self._lock:
            if case not in self._made:
                serving = {
                    name: implementations[name]
                    for name in MEASURED.get(problem.device.type, ())
                    if implementations[name].refusal(problem) is None
                }
                if len(serving) < 2 or not may_measure(problem):
                    return DEFAULT
                measure = functools.partial(
                    self._measure,
                    problem,
                    x_dtype,
                    terms.padding is not None,
                    is_cosine,
                    is_training,
                    serving,
                )
                self._made[case] = self._agree(case, measure)
            name = self._made[case]
        # Of the maps of a case, one may be too large for what the others take.
        return name if implementations[name].refusal(problem) is None else DEFAULT

    def _agree(self, case: Case, measure: Callable[[], dict[str, float]]) -> str:
        store, key = store_of_ranks(), 'swin_ext/attention/' + json.dumps(case)
        if store is not None and store.check([key]):
            return store.get(key).decode()
        times = measure()
        name = best = fastest(times)
        if case.device == 'cpu' and self._path is None:
            name = DEFAULT
        if store is not None:
            name = store.compare_set(key, '', name).decode()
        in_ms = {other: round(1e3 * t, 4) for other, t in times.items()}
        advice = f'; attn_impl={best!r} is faster here' if name == DEFAULT != best else ''
        print_log(
            f'attn_impl={name!r} is chosen for {_in_words(case)}: '
            + ', '.join(f'{other} {ms:.2f} ms' for other, ms in in_ms.items())
            + advice,
            'current',
        )
        if self._path is not None and is_main_process():
            add_choice(self._path, case, name, in_ms)
        return name


def fastest(times: dict[str, float]) -> str:
    """The fastest one, but the default if that is hardly slower, or none was timed."""
    if not times:
        return DEFAULT
    best = min(times, key=times.get)
    if DEFAULT in times and times[best] * LEAST_GAIN > times[DEFAULT]:
        return DEFAULT
    return best


def may_measure(problem: Problem) -> bool:
    """Whether a measurement is worth its time, and changes nothing that it must not."""
    if 0 in problem.shape or torch.are_deterministic_algorithms_enabled():
        return False
    if problem.device.type == 'cuda':
        return not torch.cuda.is_current_stream_capturing()
    B, H, W, C = problem.shape
    return B * H * W * C >= LARGE_ON_CPU


def _in_words(case: Case) -> str:
    return ', '.join(f'{key} {value}' for key, value in case._asdict().items())


def read_choices(path: Path) -> dict[Case, str]:
    """Choices of a file; none if there is no such file yet.

    Raises:
        AttentionChoicesError: If it is none of `add_choice`.
    """
    return {case: entry['implementation'] for case, entry in _read_entries(path).items()}


def _read_entries(path: Path) -> dict[Case, dict]:
    try:
        text = path.read_text(encoding='utf-8')
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise AttentionChoicesError(f'{path} cannot be read: {error}') from error
    try:
        entries = json.loads(text)['choices']
        found = {}
        for entry in entries:
            case = Case(*(entry[field] for field in Case._fields))
            if not isinstance(entry['implementation'], str):
                raise TypeError(f'implementation is {entry["implementation"]}')
            found[case] = entry
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise AttentionChoicesError(
            f'{path}, which {VARIABLE} names, is no file of choices '
            f'({type(error).__name__}: {error}). Remove it, and it is written anew.'
        ) from error


def add_choice(path: Path, case: Case, name: str, milliseconds: dict[str, float]) -> None:
    """Add a choice to a file, or replace that of the same case."""
    entries = _read_entries(path)
    entries[case] = dict(case._asdict(), implementation=name, milliseconds=milliseconds)
    with replacing_text(path) as file:
        json.dump(dict(choices=list(entries.values())), file, indent=1)


@functools.cache
def shared_choices() -> Choices:
    """Those of the process, of the file that the environment variable names."""
    path = os.environ.get(VARIABLE)
    return Choices(Path(path) if path else None)
