"""Errors that reach every rank, so that none waits for one that has failed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from mmengine.dist import all_gather_object, broadcast_object_list, get_world_size, is_main_process

from swin_ext.utils.errors import UserError


class OtherRankError(UserError, RuntimeError):
    """What failed on another rank, where its error itself cannot be sent."""


def on_main_process(action: Callable, *args: Any) -> Any:
    """Call `action(*args)` on the main process, for all ranks, which must all come here.

    Returns:
        What it returned, on every rank.

    Raises:
        Exception: What it raised, on every rank; `OtherRankError` where that cannot be pickled.
    """
    outcome = [None, None]
    error = None
    if is_main_process():
        try:
            outcome[0] = action(*args)
        except Exception as raised:  # whatever it is, the others must not wait
            error, outcome[1] = raised, portable(raised, 0)
    broadcast_object_list(outcome)
    if error is not None:
        raise error
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def on_all_ranks(action: Callable, *args: Any) -> Any:
    """Call `action(*args)` on every rank; where it fails on one, it fails on all.

    `action` must not exchange anything between ranks that one of them may leave out.

    Raises:
        Exception: Its own, or that of the first rank with one.
    """
    result = error = None
    try:
        result = action(*args)
    except Exception as raised:  # whatever it is, the others must not wait
        error = raised
    if get_world_size() > 1:
        errors = all_gather_object(error and portable(error))
        if error is None:
            error = next((other for other in errors if other is not None), None)
    if error is not None:
        raise error
    return result


def portable(error: Exception, rank: int | None = None) -> Exception:
    """The error itself if it survives being sent to another rank, else its text."""
    try:
        if str(pickle.loads(pickle.dumps(error))) == str(error):
            return error
    except Exception:  # pickle raises of any type
        pass
    where = 'Another rank' if rank is None else f'Rank {rank}'
    return OtherRankError(f'{where} failed with {type(error).__name__}: {error}')
