"""Files that are whole at any moment: written aside, synced, then moved into place."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import TextIO

ASIDE = '.saving'  # suffix of a file that is being written


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[WholeWrites]:
    """Open a binary file beside `path`, which takes its place once it is whole on the disk.

    Raises:
        OSError: If it cannot be written. `path` is as before, and nothing is left beside it.
    """
    path = Path(path).absolute()
    aside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a data loader's worker that is forked meanwhile must inherit no unwritten
        # bytes, which it would write once more.
        with open(aside, 'wb', buffering=0) as raw:
            file = WholeWrites(raw)
            try:
                yield file
            except Exception as error:  # of `torch.save`, which may hide that of the disk
                if file.error in (None, error):
                    raise
                raise file.error from error
            if file.error is not None:
                raise file.error
            os.fsync(raw.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):  # what kept it from being written may keep it there
            aside.unlink()
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing_text(path: str | os.PathLike) -> Iterator[TextIO]:
    """Like `replacing`, for text in UTF-8, which is written line by line."""
    path = Path(path).absolute()
    aside = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, 'w', encoding='utf-8', newline='') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise
    _sync_folder(path.parent)


def _beside(path: Path) -> Path:
    """Of this process alone: others, on this or another machine, may write the same file."""
    return path.with_name(f'{path.name}.{socket.gethostname()}-{os.getpid()}{ASIDE}')


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system lets a folder be synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class WholeWrites:
    """What `torch.save` needs of a file, over an unbuffered one, whose writes may be partial.

    Attributes:
        error: The first error of the disk, for which `torch.save` may raise one of its own.
    """

    def __init__(self, raw: FileIO) -> None:
        self._raw = raw
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        rest = memoryview(data).cast('B')
        size = len(rest)
        try:
            while rest:
                rest = rest[self._raw.write(rest) :]
        except OSError as error:
            self.error = self.error or error
            raise
        return size

    def flush(self) -> None:
        """Nothing is buffered."""
