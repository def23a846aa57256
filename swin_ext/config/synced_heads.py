"""How `sync_avg_factor` reaches the heads of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from swin_ext.config.errors import Problem
from swin_ext.config.signatures import classes_named


def set_sync_avg_factor(cfg: Any) -> list[Problem]:
    """Give heads whose losses are averages over a rank's own samples the classes that synchronise.

    These are of `swin_ext.models.synced_heads`; other heads stay, as do those that have been given
    one already.
    """
    if not cfg.get('sync_avg_factor'):
        return []
    from swin_ext.models.synced_heads import HEADS, PREFIX

    synced = {PREFIX + head.__name__ for head in HEADS}
    scope, found = cfg.get('default_scope'), False
    for part in _typed_parts(cfg.get('model')):
        kind = part['type']
        name = kind.rpartition('.')[2] if isinstance(kind, str) else kind.__name__
        if name in synced:
            found = True
        elif PREFIX + name in synced and set(classes_named(kind, scope)) & set(HEADS):
            part['type'], found = PREFIX + name, True
    if found:
        return []
    return [
        Problem(
            'sync_avg_factor',
            'no head of the model averages over the samples of a rank in a way that is known',
            f'Take it out; it is for {", ".join(head.__name__ for head in HEADS)}',
        )
    ]


def _typed_parts(node: Any) -> Iterator[dict]:
    if isinstance(node, dict):
        if 'type' in node:
            yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for part in node:
            yield from _typed_parts(part)
