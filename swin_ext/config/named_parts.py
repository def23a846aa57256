"""Hooks and loggers by a name: `best.metric=cmr/dice` instead of `custom_hooks.2.metric=...`.

A name stands for the one entry of its type, in `custom_hooks` or `visualizer.vis_backends`. What a
config says under the name changes that entry, or adds one; `None` removes it; `True` is an entry
with nothing but its type.
"""

from __future__ import annotations

from typing import Any

from swin_ext.config.errors import Problem

# In the order in which hooks of the same priority run.
HOOKS = dict(
    class_check='ClassCheckHook',
    adapt='AdaptCheckpointHook',
    freeze='BackboneFreezeHook',
    best='BestCheckpointHook',
    nonfinite='NonFiniteLossHook',
    samples='SamplePredictionsHook',
    history='HistoryHook',
    results_table='ResultsTableHook',
    progress='ProgressBarHook',
    preemption='PreemptionHook',
    gpu_stats='GPUStatsHook',  # last: the time after it counts as waiting for data
)
VIS_BACKENDS = dict(
    tensorboard='TensorboardVisBackend',
    wandb='WandbVisBackend',
    mlflow='MLflowVisBackend',
    clearml='ClearMLVisBackend',
    neptune='NeptuneVisBackend',
    dvclive='DVCLiveVisBackend',
    aim='AimVisBackend',
)


def place_named_parts(cfg: Any) -> list[Problem]:
    """Move what a config says under these names to the lists that runners read."""
    problems = []
    if any(name in cfg for name in HOOKS):
        hooks = cfg.get('custom_hooks') or []
        problems += _place(cfg, hooks, HOOKS, 'custom_hooks')
        cfg['custom_hooks'] = hooks
    if any(name in cfg for name in VIS_BACKENDS):
        visualizer = cfg.get('visualizer')
        if not isinstance(visualizer, dict):
            names = ', '.join(name for name in VIS_BACKENDS if name in cfg)
            return problems + [
                Problem(names, 'there is no visualizer to log to', 'Set visualizer=dict(type=...)')
            ]
        backends = list(visualizer.get('vis_backends') or [])
        problems += _place(cfg, backends, VIS_BACKENDS, 'visualizer.vis_backends')
        visualizer['vis_backends'] = backends
    return problems


def _place(cfg: Any, entries: list, types: dict[str, str], where: str) -> list[Problem]:
    if not isinstance(entries, list):
        return []  # the schema says so
    problems = []
    for name in [name for name in types if name in cfg]:
        change = cfg.pop(name)
        if change is not None and change is not True and not isinstance(change, dict):
            problems.append(
                Problem(
                    name,
                    f'{change!r} is no {types[name]}',
                    f'Give keys of it, {name}.KEY=VALUE, or None for none; a variable of a '
                    'config needs another name',
                )
            )
            continue
        found = [i for i, entry in enumerate(entries) if _type_of(entry) == types[name]]
        if len(found) > 1:
            places = ' and '.join(f'{where}.{i}' for i in found)
            problems.append(
                Problem(name, f'{places} are both of type {types[name]}', 'Change these entries')
            )
        elif change is None:
            entries[:] = [entry for i, entry in enumerate(entries) if i not in found]
        elif found:
            entries[found[0]] = _changed(entries[found[0]], change)
        else:
            entry = _changed(dict(type=types[name]), change)
            entries.insert(_position(name, entries, types), entry)
    return problems


def _changed(entry: dict, change: Any) -> dict:
    """Merge as for `--cfg-options`; another `type` leaves nothing of the old entry."""
    from mmengine.config import Config

    change = {} if change is True else change
    if change.get('type', entry['type']) != entry['type']:
        entry = {}
    merged = Config(dict(entry=entry))
    merged.merge_from_dict(dict(entry=change))
    return merged.entry


def _position(name: str, entries: list, types: dict[str, str]) -> int:
    """Before the first entry that comes later in the order of the names."""
    order = list(types)
    later = {types[other] for other in order[order.index(name) + 1 :]}
    return next((i for i, e in enumerate(entries) if _type_of(e) in later), len(entries))


def _type_of(entry: Any) -> Any:
    kind = entry.get('type') if isinstance(entry, dict) else type(entry)
    return kind if isinstance(kind, str) else getattr(kind, '__name__', None)
