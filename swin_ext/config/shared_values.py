"""How `data_root`, `image_scale`, `max_epochs` and others reach what depends on them.

`data_root`, `annotation_index` and `image_scale` go to parts that have none of their own. What was
handed on is kept in `cfg.inherited`, so that another value can take its place later: in the config
that a run has left in its work_dir, for example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from swin_ext.config.errors import Problem
from swin_ext.config.signatures import classes_named, keys_of

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Transforms with a `scale`; the upstream classes, with any scope before them.
RESIZES = frozenset({'Resize', 'RandomResize'})


def set_data_root(cfg: Any) -> list[Problem]:
    """Hand `data_root` on to the data sets, also those inside wrappers."""
    datasets = [
        found
        for name in DATALOADERS
        if isinstance(cfg.get(name), dict)
        for found in _datasets(cfg[name].get('dataset'), f'{name}.dataset')
    ]
    return _hand_on(cfg, 'data_root', datasets, 'data_root')


def set_annotation_index(cfg: Any) -> list[Problem]:
    """Hand `annotation_index` on to the data sets that may have an index."""
    datasets = [
        found for name in DATALOADERS for found in _parts(cfg.get(name), name, _may_have_an_index)
    ]
    return _hand_on(cfg, 'annotation_index', datasets, 'index')


def set_image_scale(cfg: Any) -> list[Problem]:
    """Hand `image_scale` on to each transform that resizes, wherever the config has it."""
    resizes = [
        found
        for key, value in cfg.items()
        if key != 'model'
        for found in _parts(value, key, _is_resize)
    ]
    return _hand_on(cfg, 'image_scale', resizes, 'scale')


def set_length(cfg: Any) -> list[Problem]:
    """Hand `max_epochs` or `max_iters` on to the train loop, and to schedulers.

    A loop counts either epochs or iterations, and takes the number of that kind only: a value of
    the other kind would change what is trained. Of schedulers, those get it as `total_steps` that
    have one, counted in the same unit.
    """
    loop = cfg.get('train_cfg')
    if not isinstance(loop, dict):
        return []
    loops = _classes_of(loop, cfg.get('default_scope'))
    if loops and not any({'max_epochs', 'max_iters'} & keys_of(found)[0] for found in loops):
        if any(hasattr(found, 'max_iters') for found in loops):
            return []  # a train loop of a length of its own
        return [
            Problem(
                'train_cfg.type',
                f'{loop["type"]} counts neither epochs nor iterations',
                'Name a train loop, such as EpochBasedTrainLoop',
            )
        ]
    counts_epochs = _counts_epochs(loop, loops)
    wrong, right = ('max_iters', 'max_epochs') if counts_epochs else ('max_epochs', 'max_iters')
    if cfg.get(wrong) is not None:
        kind = loop.get('type', 'the train loop')
        other = 'IterBasedTrainLoop' if counts_epochs else 'EpochBasedTrainLoop'
        return [
            Problem(
                wrong,
                f'{kind} of train_cfg counts {"epochs" if counts_epochs else "iterations"}',
                f'Set {right}, or train_cfg.type={other}',
            )
        ]
    if cfg.get(right) is None:
        return []
    loop[right] = cfg[right]
    for scheduler in _schedulers(cfg.get('param_scheduler')):
        if 'total_steps' in scheduler and scheduler.get('by_epoch', True) == counts_epochs:
            scheduler['total_steps'] = cfg[right]
    return []


def _hand_on(cfg: Any, name: str, parts: list[tuple[str, dict]], key: str) -> list[Problem]:
    value = cfg.get(name)
    if value is None or not parts:
        return []
    before = (cfg.get('inherited') or {}).get(name)
    takers = [
        part
        for _, part in parts
        if part.get(key) is None or before is not None and part[key] == before
    ]
    for part in takers:
        part[key] = value
    if takers:
        cfg['inherited'] = dict(cfg.get('inherited') or {}, **{name: value})
    elif all(part[key] != value for _, part in parts):
        path, part = parts[0]
        return [
            Problem(
                name,
                f'is {value!r}, but all that it is for have their own: {path}.{key} is '
                f'{part[key]!r}',
                f'Change those, or take them out so that {name} counts',
            )
        ]
    return []


def _datasets(dataset: Any, path: str) -> Iterator[tuple[str, dict]]:
    """The data sets of a config, those inside a wrapper instead of the wrapper."""
    if not isinstance(dataset, dict):
        return
    inner = list(enumerate(dataset.get('datasets') or ()))
    if inner:
        for number, child in inner:
            yield from _datasets(child, f'{path}.datasets.{number}')
    elif isinstance(dataset.get('dataset'), dict):
        yield from _datasets(dataset['dataset'], f'{path}.dataset')
    else:
        yield path, dataset


def _parts(node: Any, path: str, wanted: Callable[[dict], bool]) -> Iterator[tuple[str, dict]]:
    if isinstance(node, dict):
        if wanted(node):
            yield path, node
        for key, value in node.items():
            yield from _parts(value, f'{path}.{key}', wanted)
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _parts(value, f'{path}.{number}', wanted)


def _is_resize(part: dict) -> bool:
    return _class_name(part) in RESIZES and part.get('scale_factor') is None


def _may_have_an_index(part: dict) -> bool:
    return _class_name(part) == 'CMRDataset'


def _class_name(part: dict) -> str:
    kind = part.get('type')
    kind = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return kind.rpartition('.')[2]


def _classes_of(loop: dict, scope: str | None) -> list[Callable]:
    return [] if loop.get('type') is None else classes_named(loop['type'], scope)


def _counts_epochs(loop: dict, loops: list[Callable]) -> bool:
    if loop.get('type') is None:
        return loop.get('by_epoch', 'max_iters' not in loop)
    for found in loops:
        return 'max_epochs' in keys_of(found)[0] or 'max_iters' not in keys_of(found)[0]
    return 'max_iters' not in loop


def _schedulers(schedulers: Any) -> Iterator[dict]:
    if isinstance(schedulers, dict) and 'type' not in schedulers:  # of several optimizers
        schedulers = list(schedulers.values())
    if isinstance(schedulers, dict):
        yield schedulers
    elif isinstance(schedulers, (list, tuple)):
        for each in schedulers:
            yield from _schedulers(each)
