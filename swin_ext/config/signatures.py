"""Which keys a class takes that a config names by `type`."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from typing import Any

# Registries of what a runner builds; the others have no part in a config.
REGISTRIES = (
    'MODELS TASK_UTILS DATASETS TRANSFORMS DATA_SAMPLERS FUNCTIONS HOOKS LOOPS METRICS EVALUATOR '
    'OPTIMIZERS OPTIM_WRAPPERS OPTIM_WRAPPER_CONSTRUCTORS PARAM_SCHEDULERS VISBACKENDS '
    'VISUALIZERS LOG_PROCESSORS WEIGHT_INITIALIZERS MODEL_WRAPPERS RUNNERS'
).split()


def classes_named(name: str | Callable, scope: str | None) -> list[Callable]:
    """What is registered by a name: one for each registry that has it, `scope`'s before others.

    A name may begin with another scope, `mmseg.UPerHead`, or be a whole path, `torch.nn.ReLU`.
    """
    return [name] if callable(name) else list(_classes_named(name, scope, _registered()))


def names_registered(scope: str | None) -> set[str]:
    """All names that `classes_named` would find."""
    return {
        name
        for root in _roots()
        for registry in _search_order(root, scope)
        for name in registry.module_dict
    }


@functools.cache
def keys_of(what: Callable) -> tuple[frozenset[str], bool]:
    """Names of the arguments, and whether others are taken as well.

    Where a class hands `**kwargs` on, the arguments of the next class in its `__mro__` count too.
    """
    names, closed, bases = set(), False, 1
    for owner, member in _constructors(what):
        bases = max(bases, len(getattr(owner, '__bases__', ())))
        try:
            parameters = inspect.signature(member).parameters.values()
        except (TypeError, ValueError):  # written in C
            break
        names.update(
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        )
        closed |= not any(p.kind is p.VAR_KEYWORD for p in parameters)
        if closed and bases == 1:  # with several, any of them may be handed the rest
            break
    return frozenset(names - {'self'}), not closed


def _constructors(what: Callable) -> list[tuple[Any, Callable]]:
    if not inspect.isclass(what):
        return [(None, what)]
    return [
        (base, vars(base)['__init__']) for base in what.__mro__[:-1] if '__init__' in vars(base)
    ]


def _roots() -> list[Any]:
    from mmengine import registry

    return [getattr(registry, name) for name in REGISTRIES]


def _registered() -> int:
    """Grows with what is registered, so that nothing remembered is out of date."""
    return sum(
        len(registry.module_dict)
        for root in _roots()
        for registry in (root, *root.children.values())
    )


@functools.lru_cache(maxsize=4096)
def _classes_named(name: str, scope: str | None, registered: int) -> tuple[Callable, ...]:
    prefix, _, bare = name.rpartition('.')
    if '.' not in prefix and (prefix or scope):
        _import_registry(prefix or scope)
    if prefix and not any(prefix in (root.scope, *root.children) for root in _roots()):
        found = _object_at(name)
        return () if found is None else (found,)
    found = []
    for root in _roots():
        for registry in _search_order(root, prefix or scope, only=bool(prefix)):
            if bare in registry.module_dict:
                found.append(registry.module_dict[bare])
                break
    return tuple(dict.fromkeys(found))


def _search_order(root: Any, scope: str | None, only: bool = False) -> list[Any]:
    first = root.children.get(scope)
    rest = [] if only else [child for child in root.children.values() if child is not first]
    registries = [*([first] if first is not None else []), root, *rest]
    for registry in registries:
        registry.import_from_location()
    return registries


def _import_registry(scope: str) -> None:
    try:
        importlib.import_module(f'{scope}.registry')
    except ImportError:
        pass


def _object_at(path: str) -> Callable | None:
    """What stands at a path such as `torch.nn.ReLU`, as dumped configs of classes have them."""
    module, _, name = path.rpartition('.')
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
