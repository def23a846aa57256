"""Finding keys that nothing reads, types that are not registered, and values that cannot be."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from pydantic import BaseModel, ValidationError

from swin_ext.config.errors import Problem
from swin_ext.config.named_parts import HOOKS, VIS_BACKENDS
from swin_ext.config.schema import VARIABLES, RunConfig
from swin_ext.config.signatures import classes_named, keys_of, names_registered
from swin_ext.config.spelling import nearest, slip_of
from swin_ext.config.untyped import BY_PLACE, TYPE_IS_A_KEY, Open

Path = tuple[str, ...]

# Keys that whoever builds the part takes out before the class sees the rest, by where it stands.
TAKEN_OUT = {
    'custom_hooks': {'priority'},
    'default_hooks': {'priority'},
    'param_scheduler': {'convert_to_iter_based'},
    'optim_wrapper': {'constructor', 'paramwise_cfg', 'optimizer'},
    '*norm_cfg': {'requires_grad', 'eps'},
    'dcn': {'fallback_on_stride', 'deformable_groups'},
    'conv_cfg': {'fallback_on_stride', 'deformable_groups'},
    'loss_cls': {'bg_cls_weight'},
    'init_cfg': {'layer', 'override', 'name'},
    'override': {'name'},
    'train_cfg': {'by_epoch'},
}
# What stands at these places is built by its type, so it must have one.
BUILT = frozenset(
    'model dataset datasets pipeline sampler batch_sampler custom_hooks visualizer vis_backends '
    'param_scheduler optimizer backbone neck val_evaluator test_evaluator roi_head rpn_head '
    'bbox_head mask_head decode_head auxiliary_head panoptic_head panoptic_fusion_head '
    'pixel_decoder assigner bbox_coder anchor_generator bbox_roi_extractor mask_roi_extractor '
    'norm_cfg act_cfg'.split()
)
# The class of a dict that may have no type.
DEFAULT_TYPES = {
    'optim_wrapper': 'OptimWrapper',
    'log_processor': 'LogProcessor',
    'val_cfg': 'ValLoop',
    'test_cfg': 'TestLoop',
}
# Transforms that hand all other keys on to another one.
HAND_ON_TO_RESIZE = frozenset({'RandomResize', 'RandomChoiceResize'})
# Named by type in a library's own way, and taken apart by the class that stands here.
OTHERS_BUSINESS = frozenset('Albu Detectron2Wrapper MMDetWrapper MMSegWrapper TIMMBackbone'.split())


def top_level_problems(cfg: Any) -> list[Problem]:
    """Keys at the top that nothing reads, and values that their keys cannot have."""
    known = {*RunConfig.model_fields, *HOOKS, *VIS_BACKENDS}
    text = getattr(cfg, 'text', None)
    own = _defined_in(text) if text else None
    problems = []
    for key, value in cfg.items():
        if key in known or key in VARIABLES and (own is None or key in own):
            # img_scale=... where the config has image_scale, for example
            other = slip_of(key, SHARED) if key in VARIABLES else None
            if other is None or cfg.get(other) is None:
                continue
        elif key.startswith('_') or callable(value) or inspect.ismodule(value):
            continue  # of a config file's own code
        elif own is None or key in own:
            other = slip_of(key, known)
            if other is None:
                continue
        else:
            other = nearest(key, known)
        problems.append(_unknown((key,), value, other, whose='a config'))
    return [*problems, *_value_problems((), dict(cfg.items()), RunConfig)]


SHARED = ('data_root', 'image_scale', 'num_classes', 'max_epochs', 'max_iters')


def key_problems(cfg: Any) -> list[Problem]:
    """Keys below the top that nothing reads, and parts whose type is missing or unknown."""
    scope = cfg.get('default_scope')
    scope = scope if scope and isinstance(scope, str) else 'mmengine'
    return [problem for key, value in cfg.items() for problem in _walk(value, (key,), scope, None)]


def _walk(node: Any, path: Path, scope: str, owner: Any) -> Iterator[Problem]:
    if isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            if isinstance(value, (list, tuple, type(None))) and _is_built(path):
                yield _no_part((*path, str(number)), value)
            yield from _walk(value, (*path, str(number)), scope, owner)
        return
    if not isinstance(node, dict):
        if isinstance(node, (bool, int, float, str)) and _is_built(path):
            yield _no_part(path, node)
        return
    model = _model_at(path)
    if model is not None and (model in TYPE_IS_A_KEY or 'type' not in node):
        yield from _against_model(node, path, model)
    elif 'type' in node or _default_type(node, path):
        kind = node.get('type')
        if kind is None:
            kind = _default_type(node, path)
        if not isinstance(kind, str) and not callable(kind):
            yield Problem('.'.join((*path, 'type')), f'is {kind!r}', 'Name a class')
            return
        found = classes_named(kind, scope)
        if not found:
            yield from _unknown_type(path, kind, scope)
            return
        if found[0].__name__ in HAND_ON_TO_RESIZE:
            resize = classes_named(node.get('resize_type', 'Resize'), scope)
            names = frozenset().union(*(keys_of(each)[0] for each in resize))
        else:
            names = frozenset()
        yield from _against_classes(node, path, found, names)
        if any(each.__name__ in OTHERS_BUSINESS for each in found):
            return
    else:
        yield from _without_type(node, path)
    for key, value in node.items():
        yield from _walk(value, (*path, str(key)), scope, node)


def _model_at(path: Path) -> type[BaseModel] | None:
    names = ('^', *(part for part in path if not part.isdigit()))
    for place, model in BY_PLACE.items():
        if len(names) >= len(place) and all(map(fnmatchcase, names[-len(place) :], place)):
            return model
    return None


def _default_type(node: dict, path: Path) -> str | None:
    if len(path) != 1:
        return None
    if path[0] == 'train_cfg' and ('by_epoch' in node or node):
        by_epoch = node.get('by_epoch', 'max_iters' not in node)
        return 'EpochBasedTrainLoop' if by_epoch else 'IterBasedTrainLoop'
    return DEFAULT_TYPES.get(path[0])


def _against_model(node: dict, path: Path, model: type[BaseModel]) -> Iterator[Problem]:
    known = set(model.model_fields)
    for key, value in node.items():
        if key in known or not isinstance(key, str):
            continue
        other = slip_of(key, known) if issubclass(model, Open) else nearest(key, known)
        if other or not issubclass(model, Open):
            yield _unknown((*path, key), value, other)
    yield from _value_problems(path, node, model)


def _against_classes(
    node: dict, path: Path, classes: list, more: frozenset[str]
) -> Iterator[Problem]:
    names, others_too = {'type', '_scope_', *more}, False
    for each in classes:
        keys, takes_others = keys_of(each)
        names |= keys
        others_too |= takes_others
    for place, taken in TAKEN_OUT.items():
        # A variable may be meant for any place.
        if fnmatchcase(_name_at(path), place) or path[0] not in RunConfig.model_fields:
            names |= taken
    for key, value in node.items():
        if key in names:
            continue
        other = slip_of(key, names) if others_too else nearest(key, names)
        if other or not others_too:
            yield _unknown((*path, key), value, other, whose=classes[0].__name__)


def _without_type(node: dict, path: Path) -> Iterator[Problem]:
    slips = [key for key in node if isinstance(node[key], str) and slip_of(key, ['type'])]
    for key in slips:
        yield _unknown((*path, key), node[key], 'type')
    if not slips and (_name_at(path) in BUILT or path[:-1] == ('default_hooks',)):
        yield Problem(
            '.'.join(path), 'this part has no type', f'Name its class: {".".join(path)}.type=...'
        )


def _is_built(path: Path) -> bool:
    # Numbers of `paramwise_cfg` are by the names of parts.
    return (
        path[0] in RunConfig.model_fields
        and 'paramwise_cfg' not in path
        and _name_at(path) in BUILT
    )


def _no_part(path: Path, value: Any) -> Problem:
    where = '.'.join(path)
    return Problem(where, f'is {value!r}, and no part', f'Name its class: {where}.type=...')


def _name_at(path: Path) -> str:
    names = [part for part in path if not part.isdigit()]
    return 'default_hooks' if path[:-1] == ('default_hooks',) else (names or path)[-1]


def _unknown(path: Path, value: Any, other: str | None, whose: str = 'this part') -> Problem:
    tail: Path = ()
    while isinstance(value, dict) and len(value) == 1:  # as from trian_dataloader.batch_size=8
        ((key, value),) = value.items()
        tail = (*tail, str(key))
    where = '.'.join((*path, *tail))
    if other is None:
        return Problem(where, f'{path[-1]} is no key of {whose}', 'Nothing reads it: take it out')
    meant = '.'.join((*path[:-1], other, *tail))
    return Problem(where, f'{path[-1]} is no key of {whose}', f'Did you mean {meant}?')


def _unknown_type(path: Path, kind: Any, scope: str) -> Iterator[Problem]:
    """Where a part is surely built; elsewhere a class may read `type` in a way of its own."""
    names, where = names_registered(scope), '.'.join((*path, 'type'))
    package = str(kind).partition('.')[0]
    other = slip_of(str(kind), names)
    if _is_built(path):
        other = nearest(str(kind), names)
    elif other is None or other.lower() == kind.lower():
        return
    if '.' in str(kind) and importlib.util.find_spec(package) is None:
        advice = f'Install {package}'
    else:
        advice = f'Did you mean {other}?' if other else 'Import what defines it: custom_imports'
    yield Problem(where, f'nothing is registered as {kind}', advice)


def _value_problems(path: Path, node: dict, model: type[BaseModel]) -> Iterator[Problem]:
    try:
        model.model_validate({k: v for k, v in node.items() if k in model.model_fields})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            where = '.'.join([*path, *(str(part) for part in each['loc'])])
            if each['type'] == 'missing':
                yield Problem(where, 'is missing', 'Set it')
            else:
                yield Problem(where, f'is {each["input"]!r}', each['msg'])


def _defined_in(text: str) -> set[str]:
    """Names that the text of a config, in Python, JSON or YAML, defines at its top."""
    return set(re.findall(r"""(?m)^(?:\s*"|'?)(\w+)["']?\s*[=:]""", text))
