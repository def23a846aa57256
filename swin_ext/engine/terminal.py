"""What of a run is to be seen on the terminal; the log file has all of it."""

from __future__ import annotations

import contextlib
import logging
import os
import sysconfig
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch.distributed
from mmengine.dist import get_dist_info
from mmengine.logging import MMLogger

from swin_ext.engine.errors import ConnectError
from swin_ext.utils.shared_store import store_of_ranks

# How messages begin that are in the log file alone, for nobody reads them as they pass by.
LOG_FILE_ONLY = (
    '\n' + '-' * 60 + '\nSystem environment:',
    'Config:\n',
    'Hooks will be executed in the following order:',
    'Distributed training is not used, all SyncBatchNorm',
    'Parameter group "',  # the summary has the number of parameters
    'Checkpoints will be saved to ',  # so has it the folder
    'Exp name: ',
    'bbox:\n',  # tables of COCO figures; those of a validation come in one table
    'segm:\n',
    'resumed key: ',  # of what hooks tell each other, which a new run makes anew
    # Upstream's notes to its own developers.
    '"FileClient" will be deprecated',
    '"HardDiskBackend" is the alias',
)
_LIBRARIES = ('stdlib', 'purelib', 'platlib')


class TerminalFilter(logging.Filter):
    """Keeps from a terminal what `LOG_FILE_ONLY` lists, and all while `closed` is set."""

    closed = False

    def filter(self, record: logging.LogRecord) -> bool:
        return not self.closed and not str(record.msg).startswith(LOG_FILE_ONLY)


def keep_short(logger: logging.Logger) -> None:
    """Filter what a logger writes to the terminal; with log level DEBUG, all is shown there."""
    for handler in _terminal_handlers(logger):
        if handler.level > logging.DEBUG and not _filter_of(handler):
            handler.addFilter(TerminalFilter())


@contextlib.contextmanager
def log_file_only(logger: logging.Logger) -> Iterator[None]:
    """What is logged meanwhile does not go to the terminal."""
    filters = [found for found in map(_filter_of, _terminal_handlers(logger)) if found]
    before = [found.closed for found in filters]  # a warning may come amid what is kept already
    for found in filters:
        found.closed = True
    try:
        yield
    finally:
        for found, closed in zip(filters, before):
            found.closed = closed


def log_warnings(logger: logging.Logger) -> Callable[[], None]:
    """Let Python's warnings go to a logger: those of other packages to its log file alone.

    Returns:
        Undoes it.
    """
    previous = warnings.showwarning

    def showwarning(message, category, filename, lineno, file=None, line=None) -> None:
        if file is not None:
            return previous(message, category, filename, lineno, file, line)
        with log_file_only(logger) if is_upstream(filename) else contextlib.nullcontext():
            logger.warning(f'{category.__name__}: {message} ({filename}:{lineno})')

    def undo() -> None:
        if warnings.showwarning is showwarning:
            warnings.showwarning = previous

    warnings.showwarning = showwarning
    return undo


def is_upstream(filename: str) -> bool:
    """Whether a source file is of Python or an installed package other than this one."""
    path = Path(filename).resolve()
    if Path(__file__).resolve().parents[1] in path.parents:
        return False
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in _LIBRARIES}
    return filename.startswith('<') or not libraries.isdisjoint(path.parents)


def log_file_of(logger: logging.Logger) -> str | None:
    """Path of the file that a logger writes on this rank, relative if that is shorter."""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            return min(handler.baseFilename, os.path.relpath(handler.baseFilename), key=len)
    return None


def log_traceback(text: str) -> str | None:
    """Write a traceback into the log file of the last run, if there is one, and return its path."""
    if not MMLogger._instance_dict:  # asking for the current logger would make one
        return None
    logger = MMLogger.get_current_instance()
    path = log_file_of(logger)
    if path is not None:
        with log_file_only(logger):
            logger.error(text)
    return path


def is_first_to_tell(error: BaseException) -> bool:
    """Whether no other rank has said yet why the run ends.

    Before the ranks are connected, they read the same config and fail alike: rank 0 tells. Those
    that cannot connect tell for themselves. After that, any of them may fail alone, and the first
    one tells.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        ranks = map(os.environ.get, ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
        return next(filter(None, ranks), '0') == '0' or isinstance(error, ConnectError)
    if get_dist_info()[1] == 1:
        return True
    try:
        return store_of_ranks().add('swin_ext/errors_told', 1) == 1
    except Exception:  # the rank that held the store is gone: better told twice than not at all
        return True


def _terminal_handlers(logger: logging.Logger) -> list[logging.Handler]:
    return [h for h in logger.handlers if type(h) is logging.StreamHandler]


def _filter_of(handler: logging.Handler) -> TerminalFilter | None:
    return next((f for f in handler.filters if isinstance(f, TerminalFilter)), None)
