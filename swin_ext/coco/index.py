"""The table of an annotation file in a file of its own, made once and mapped by all processes.

The file is one of the format safetensors (https://github.com/huggingface/safetensors), whose
library copies arrays into memory: here they are mapped. It is made anew when the annotation file
has another SHA-256 than the one it was made of, when its own data have another than its header
says, and by another version of this package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import tempfile
from pathlib import Path

import filelock
import numpy as np

from swin_ext.coco.errors import AnnotationError
from swin_ext.coco.reading import is_local, read_coco_file, without_collecting
from swin_ext.coco.sound_files import SoundFile
from swin_ext.coco.streaming import NotPlain
from swin_ext.coco.table import COLUMNS, AnnotationTable, TableBuilder
from swin_ext.utils.files import replacing
from swin_ext.utils.hashes import CHUNK_BYTES, sha256_of
from swin_ext.version import __version__

SUFFIX = '.index.safetensors'
# Of an annotation file: smaller ones are read in about a second.
MIN_BYTES = 16 << 20
DTYPES = {np.uint8: 'U8', np.int32: 'I32', np.int64: 'I64'}
LENGTH_BYTES = 8  # of the header's length, at the beginning of the file


class IndexedTable(AnnotationTable):
    """A table whose arrays are mapped from an index; it is pickled as the index's path."""

    def __init__(self, path: Path, digest: str) -> None:
        super().__init__(_map(path, digest))
        self._origin = path, digest

    def __reduce__(self) -> tuple:
        return type(self), self._origin


class _Unusable(Exception):
    """Why an index has to be made anew."""


def read_table(
    path: str | os.PathLike,
    *,
    needs_masks: bool = False,
    backend_args: dict | None = None,
    index: bool | str = True,
    max_decoded: int | None = None,
) -> AnnotationTable:
    """Return the table of an annotation file, from its index if it may have one.

    Args:
        path: See `read_coco_file`, likewise `needs_masks` and `backend_args`.
        index: True for one beside the annotation file if that has `MIN_BYTES` or more, or in
            `~/.cache/swin_ext` if its folder cannot be written; False for none; a folder for one
            in there.
        max_decoded: See `check_content`, whose findings the index has too.

    Raises:
        AnnotationError: See `read_coco_file`.
    """
    if index is False or not is_local(path, backend_args) or not os.path.isfile(path):
        return build_table(path, needs_masks, backend_args)
    if index is True and os.path.getsize(path) < MIN_BYTES:
        return build_table(path, needs_masks)
    problem = None
    for place in index_places(path, index):
        try:
            return _indexed(path, place, needs_masks, max_decoded)
        except OSError as error:
            problem = problem or f'{place} cannot be written ({error})'
    _log(f'{path} is read without an index: {problem}.')
    return build_table(path, needs_masks)


def index_places(path: str | os.PathLike, index: bool | str = True) -> list[Path]:
    """Where the index of an annotation file may lie, the first choice first."""
    path = Path(path).absolute()
    if index is not True:
        return [Path(index) / (path.name + SUFFIX)]
    cache = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'swin_ext'
    of_path = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return [path.with_name(path.name + SUFFIX), cache / f'{of_path}-{path.name}{SUFFIX}']


def build_table(
    path: str | os.PathLike, needs_masks: bool, backend_args: dict | None = None
) -> AnnotationTable:
    """Read an annotation file into a table in memory."""
    with without_collecting():
        if is_local(path, backend_args):
            with contextlib.suppress(NotPlain, OSError):  # what is wrong will be named
                return _build_of_parts(path, needs_masks)
        file = read_coco_file(path, needs_masks=needs_masks, backend_args=backend_args)
        builder, head = TableBuilder(), dict(file.content)
        builder.add_images(head.pop('images'))
        builder.add_annotations(head.pop('annotations'))
        return builder.table(head, file.repairs, file.problems, needs_masks)


def _build_of_parts(path: str | os.PathLike, needs_masks: bool) -> AnnotationTable:
    file, builder = SoundFile(path), TableBuilder()
    for key, entries in file.parts():
        if key == 'images':
            builder.add_images(entries)
        else:
            builder.add_annotations(entries)
    if needs_masks and file.without_mask:
        raise NotPlain
    return builder.table(file.head, file.repairs, (), False if file.without_mask else None)


def _indexed(
    path: str | os.PathLike, place: Path, needs_masks: bool, max_decoded: int | None
) -> AnnotationTable:
    """Map the index at `place`, which one process of this machine makes if need be."""
    digest = sha256_of(path)
    with contextlib.suppress(_Unusable, OSError):
        return _open(place, digest, needs_masks, max_decoded)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(place.parent, os.W_OK):
        raise PermissionError(f'no permission to write into {place.parent}')
    of_place = hashlib.sha256(os.fsencode(place.absolute())).hexdigest()[:16]
    with filelock.FileLock(Path(tempfile.gettempdir()) / f'swin_ext-{os.getuid()}-{of_place}.lock'):
        try:
            return _open(place, digest, needs_masks, max_decoded)  # another process has made it
        except FileNotFoundError:
            reason = 'there is none yet'
        except _Unusable as error:
            reason = str(error)
        with without_collecting():
            table = build_table(path, needs_masks)
            table.find_all(max_decoded)
        if sha256_of(path) != digest:
            raise AnnotationError(f'{path} was changed while it was read. Start again.')
        _save(table, place, digest)
        _log(f'{place} was made, an index of {path}: {reason}.')
    return IndexedTable(place, digest)


def _open(place: Path, digest: str, needs_masks: bool, max_decoded: int | None) -> IndexedTable:
    table = IndexedTable(place, digest)
    if table.head['needs_masks'] not in (None, needs_masks):
        raise _Unusable('masks were not needed then, or are not needed now')
    if table.head['max_decoded'] != max_decoded:
        raise _Unusable('masks were checked in another way')
    return table


def _save(table: AnnotationTable, place: Path, digest: str) -> None:
    """Write an index, whole or not at all, also if other machines write the same one."""
    entries, offset, data_digest = {}, 0, hashlib.sha256()
    # Numbers of eight bytes come first, so that each array is aligned.
    names = sorted(COLUMNS, key=lambda name: -np.dtype(COLUMNS[name]).itemsize)
    for name in names:
        column = table.columns[name]
        entries[name] = dict(
            dtype=DTYPES[COLUMNS[name]],
            shape=list(column.shape),
            data_offsets=[offset, offset + column.nbytes],
        )
        offset += column.nbytes
        data_digest.update(column.reshape(-1).view(np.uint8).data)
    data_digest.update(json.dumps(entries).encode())
    entries['__metadata__'] = dict(
        version=__version__, annotations_sha256=digest, data_sha256=data_digest.hexdigest()
    )
    header = json.dumps(entries).encode()
    header += b' ' * (-len(header) % LENGTH_BYTES)
    own = place.with_name(f'{place.name}.{socket.gethostname()}-{os.getpid()}')
    try:
        with replacing(own) as file:
            file.write(len(header).to_bytes(LENGTH_BYTES, 'little'))
            file.write(header)
            for name in names:
                file.write(table.columns[name].reshape(-1).view(np.uint8).data)
        os.replace(own, place)
    finally:
        own.unlink(missing_ok=True)


def _map(path: Path, digest: str) -> dict[str, np.ndarray]:
    """Map the arrays of an index that was made of a file with this SHA-256.

    Raises:
        FileNotFoundError: There is none.
        _Unusable: It is damaged, or not of that file, or of another version.
    """
    with open(path, 'rb') as file:
        try:
            length = int.from_bytes(file.read(LENGTH_BYTES), 'little')
            header = json.loads(file.read(min(length, CHUNK_BYTES)))
            about = header.pop('__metadata__')
            if about['version'] != __version__:
                raise _Unusable(f'the one there is of swin_ext {about["version"]}')
            if about['annotations_sha256'] != digest:
                raise _Unusable('the annotation file is another than that of the one there')
            data_digest = hashlib.sha256()
            for chunk in iter(lambda: file.read(CHUNK_BYTES), b''):
                data_digest.update(chunk)
            data_digest.update(json.dumps(header).encode())
            if data_digest.hexdigest() != about['data_sha256']:
                raise _Unusable('the one there is damaged')
            return {
                name: _map_column(path, LENGTH_BYTES + length, header[name], kind)
                for name, kind in COLUMNS.items()
            }
        except (ValueError, KeyError, TypeError) as error:
            raise _Unusable('the one there is damaged') from error


def _map_column(path: Path, first: int, entry: dict, kind: type) -> np.ndarray:
    start, shape = first + entry['data_offsets'][0], tuple(entry['shape'])
    if 0 in shape:
        return np.zeros(shape, kind)
    return np.asarray(np.memmap(path, kind, 'r', start, shape))


def _log(text: str) -> None:
    from mmengine.logging import print_log  # imports torch

    print_log(text, 'current')
