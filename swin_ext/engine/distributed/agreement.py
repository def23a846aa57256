"""Ranks that would not compute the same training are found before it begins."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import json
import os
import socket
from collections.abc import Iterator
from typing import Any

from torch import distributed

from swin_ext.engine.errors import ConnectError, DisagreementError
from swin_ext.utils.hashes import sha256_of
from swin_ext.version import __version__

MISSING = 'no such file'
SECONDS = 60
SECONDS_TO_READ = 20
MAX_LINES = 6  # of two configs that differ


def check_agreement(store: distributed.Store, rank: int, world_size: int, config: Any) -> None:
    """Compare config, annotation files and version of all ranks; rank 0 tells what differs.

    It goes through the store, for which neither GPUs nor the group's own connections are needed,
    and which ends after a minute.

    Args:
        store: What the ranks share.
        rank: Of this process.
        world_size: Number of processes.
        config: The complete `mmengine.config.Config`.

    Raises:
        DisagreementError: On every rank, if one differs from rank 0.
        ConnectError: If a rank does not answer in time.
    """
    store = distributed.PrefixStore('swin_ext/agreement', store)
    seconds = datetime.timedelta(seconds=SECONDS)
    store.set(f'{rank}', json.dumps(describe(config)))
    try:
        if rank == 0:
            keys = [str(i) for i in range(world_size)]
            store.wait(keys, seconds)
            found = [json.loads(store.get(key)) for key in keys]
            store.set('verdict', next(filter(None, (_difference(found, i) for i in keys)), ''))
        store.wait(['verdict'], seconds)
        verdict = store.get('verdict').decode()
    except RuntimeError as error:  # torch.distributed.DistError is one
        raise ConnectError(
            f'Rank {rank} waited {SECONDS} s for the others to say what they are about to train: '
            f'{str(error).splitlines()[0]}'
        ) from error
    if verdict:
        with contextlib.suppress(RuntimeError):  # of a rank that has died since
            if rank == 0:  # which takes the store along as it ends
                readers = [f'{key} has read' for key in keys if key != '0']
                store.wait(readers, datetime.timedelta(seconds=SECONDS_TO_READ))
            else:
                store.set(f'{rank} has read', '1')
        raise DisagreementError(verdict)


def describe(config: Any) -> dict:
    """What all ranks must have in common, and the name of this one's host."""
    content = dict(config.items())
    return dict(
        host=socket.gethostname(),
        version=__version__,
        config=list(_lines(content)),
        files={path: _hash(path) for path in sorted(set(annotation_files(content)))},
    )


def annotation_files(node: Any) -> Iterator[str]:
    """Paths of the annotation files that the data sets of a config name, joined as they do it."""
    if isinstance(node, (list, tuple)):
        for value in node:
            yield from annotation_files(value)
    elif isinstance(node, dict):
        path, root = node.get('ann_file'), node.get('data_root')
        if isinstance(path, str) and path and 'type' in node:
            yield os.path.join(root or '', path)
        for value in node.values():
            yield from annotation_files(value)


def _lines(node: Any, name: str = '') -> Iterator[str]:
    """A config in lines of `a.b.0.c = value`, in which memory addresses do not occur."""
    if isinstance(node, (dict, list, tuple)):
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in items:
            yield from _lines(value, f'{name}.{key}' if name else str(key))
    elif node is None or isinstance(node, (str, int, float)):
        yield f'{name} = {node!r}'
    else:
        yield f'{name}: {getattr(node, "__qualname__", type(node).__qualname__)}'


def _hash(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        return MISSING if isinstance(error, FileNotFoundError) else str(error.strerror)


def _difference(found: list[dict], key: str) -> str:
    """How a rank differs from rank 0, in words; nothing if it does not."""
    first, other = found[0], found[int(key)]
    who = f'Rank {key} on {other["host"]} and rank 0 on {first["host"]}'
    if other['version'] != first['version']:
        return (
            f'{who} run different versions of swin_ext: {other["version"]} and '
            f'{first["version"]}. Install the same one on all nodes.'
        )
    if other['config'] != first['config']:
        lines = difflib.unified_diff(first['config'], other['config'], lineterm='', n=0)
        changes = [line for line in lines if line[:1] in '+-' and line[:3] not in ('+++', '---')]
        return (
            f'{who} have different configs (- rank 0, + rank {key}):\n'
            + '\n'.join(changes[:MAX_LINES])
            + '\nStart all ranks with the same config, options and environment variables.'
        )
    for path, digest in first['files'].items():
        if other['files'][path] != digest:
            return (
                f'{who} have different annotation files {path}: '
                f'{other["files"][path][:16]} and {digest[:16]} (SHA-256). '
                'Let all nodes read the same file, or copy it again.'
            )
    return ''
