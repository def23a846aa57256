"""Where each family of models says how many classes there are.

To add a family, add a `Family` with the types of its detectors and the places of its heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from swin_ext.config.errors import Problem
from swin_ext.config.signatures import classes_named, keys_of


@dataclass(frozen=True)
class Family:
    """Models whose class is, or derives from, one named in `types`.

    `heads` are the places of parts with `num_classes`; each may be a list of parts. A part that is
    not there is left out, and so is one whose class takes no `num_classes`.
    """

    types: tuple[str, ...]
    heads: tuple[str, ...]


MASKFORMER = Family(('MaskFormer',), ('panoptic_head', 'panoptic_fusion_head'))
FAMILIES = (
    MASKFORMER,
    # Faster, Mask, Cascade, Mask Scoring, PointRend, HTC, SCNet, Sparse R-CNN, QueryInst. A
    # semantic_head counts classes of another data set.
    Family(
        ('TwoStageDetector',),
        tuple(
            f'roi_head.{name}'
            for name in ('bbox_head', 'mask_head', 'mask_iou_head', 'point_head', 'glbctx_head')
        ),
    ),
    # RetinaNet, FCOS, ATSS, YOLOX, RTMDet, DETR, Deformable DETR, DINO; YOLACT and CondInst
    Family(
        ('SingleStageDetector', 'SingleStageInstanceSegmentor'),
        ('bbox_head', 'mask_head', 'segm_head'),
    ),
    # MMSegmentation: UPerNet, DeepLab, SegFormer
    Family(('EncoderDecoder', 'CascadeEncoderDecoder'), ('decode_head', 'auxiliary_head')),
)
# Parts that have numbers of their own: ImageNet's, or those of a trained teacher.
NOT_OURS = ('backbone', 'teacher', 'data_preprocessor', 'rpn_head', 'semantic_head')


def set_num_classes(cfg: Any) -> list[Problem]:
    """Hand the number of classes on to the model, and check what depends on it."""
    model = cfg.get('model')
    if not isinstance(model, dict):
        return []
    path, model = _innermost(model)
    family = family_of(model, cfg.get('default_scope'))
    if family is MASKFORMER:
        unsound = list(_unsound_numbers(model, path))
        if unsound:
            return unsound
        return [*_set_of_maskformer(cfg, model, path), *_check_max_per_image(model, path)]
    num_classes = cfg.get('num_classes')
    if num_classes is None:
        return []
    problems = []
    for where, head in _heads(model, family, path):
        if 'num_classes' in head or _takes_num_classes(head, cfg.get('default_scope')):
            head['num_classes'] = num_classes
            problems += _set_of_losses(head, num_classes, where)
    return problems


def family_of(model: dict, scope: str | None) -> Family | None:
    """The family of a model's config, or None for a class that derives from no detector above."""
    kind = model.get('type')
    names = {str(kind).rpartition('.')[2]}
    for found in classes_named(kind, scope) if kind is not None else ():
        names.update(base.__name__ for base in getattr(found, '__mro__', ()))
    return next((family for family in FAMILIES if names & set(family.types)), None)


def _innermost(model: dict) -> tuple[str, dict]:
    """Semi-supervised detectors and trackers wrap the model in question."""
    path = 'model'
    while isinstance(model.get('detector'), dict):
        path, model = f'{path}.detector', model['detector']
    return path, model


def _heads(model: dict, family: Family | None, path: str) -> Iterator[tuple[str, dict]]:
    if family is None:
        yield from _parts_with_num_classes(model, path)
        return
    for place in family.heads:
        found: Any = model
        for name in place.split('.'):
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict):
            yield f'{path}.{place}', found
        elif isinstance(found, (list, tuple)):
            for number, part in enumerate(found):
                if isinstance(part, dict):
                    yield f'{path}.{place}.{number}', part


def _parts_with_num_classes(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Of a model of no known family: those that say a number, outside of `NOT_OURS`."""
    if isinstance(node, dict):
        if 'num_classes' in node:
            yield path, node
        for key, value in node.items():
            if not str(key).startswith(NOT_OURS):
                yield from _parts_with_num_classes(value, f'{path}.{key}')
    elif isinstance(node, (list, tuple)):
        for number, value in enumerate(node):
            yield from _parts_with_num_classes(value, f'{path}.{number}')


def _takes_num_classes(part: dict, scope: str | None) -> bool:
    return any('num_classes' in keys_of(each)[0] for each in classes_named(part['type'], scope))


def _set_of_losses(head: dict, num_classes: int, path: str) -> list[Problem]:
    """Losses with a number of their own, or with a weight for each class."""
    problems = []
    for name, losses in head.items():
        if not str(name).startswith('loss'):
            continue
        for loss in losses if isinstance(losses, (list, tuple)) else [losses]:
            if not isinstance(loss, dict):
                continue
            if 'num_classes' in loss:
                loss['num_classes'] = num_classes
            weights = loss.get('class_weight')
            # With softmax, detection heads have the background as one class more.
            if isinstance(weights, (list, tuple)) and len(weights) not in (
                num_classes,
                num_classes + 1,
            ):
                problems.append(_wrong_weights(f'{path}.{name}', weights, num_classes))
    return problems


def _wrong_weights(path: str, weights: Any, needed: int) -> Problem:
    return Problem(
        f'{path}.class_weight',
        f'has {len(weights)} weights for {needed} classes',
        'Give one weight for each class',
    )


def _unsound_numbers(model: dict, path: str) -> Iterator[Problem]:
    for where, head in _heads(model, MASKFORMER, path):
        for name in ('num_things_classes', 'num_stuff_classes', 'num_queries'):
            number = head.get(name, 1)
            if type(number) is not int or number < (name == 'num_queries'):
                yield Problem(f'{where}.{name}', f'is {number!r}', 'Give a whole number')


def _set_of_maskformer(cfg: Any, model: dict, path: str) -> Iterator[Problem]:
    """`num_classes` counts things and stuff; the weights of the loss have one for none of them."""
    heads = dict(_heads(model, MASKFORMER, path))
    head = heads.get(f'{path}.panoptic_head')
    if head is None:
        return
    stuff = cfg.get('num_stuff_classes')
    stuff = head.get('num_stuff_classes', 53) if stuff is None else stuff
    total, things = cfg.get('num_classes'), cfg.get('num_things_classes')
    if things is None:
        things = head.get('num_things_classes', 80) if total is None else total - stuff
    if things < 0 or total is not None and things + stuff != total:
        yield Problem(
            'num_classes',
            f'is {total}, but there are {things} num_things_classes and {stuff} num_stuff_classes'
            if things >= 0
            else f'is {total}, less than the {stuff} num_stuff_classes',
            'They add up: set num_things_classes and num_stuff_classes too (without stuff, to '
            'num_classes and 0)',
        )
        return
    for part in heads.values():
        part.update(num_things_classes=things, num_stuff_classes=stuff)
    loss = head.get('loss_cls')
    loss = loss if isinstance(loss, dict) else {}
    weights = loss.get('class_weight')
    if isinstance(weights, (list, tuple)) and len(weights) != things + stuff + 1:
        *of_classes, of_none = weights or [None]
        if not of_classes or of_classes != of_classes[:1] * len(of_classes):
            yield _wrong_weights(f'{path}.panoptic_head.loss_cls', weights, things + stuff + 1)
            return
        loss['class_weight'] = of_classes[:1] * (things + stuff) + [of_none]


def _check_max_per_image(model: dict, path: str) -> Iterator[Problem]:
    """MMDetection takes the best `max_per_image` of all pairs of a query and a class.

    With fewer pairs, `topk` fails at the first validation: after an epoch, with no word of this.
    """
    test_cfg, head = model.get('test_cfg'), model.get('panoptic_head')
    if not isinstance(test_cfg, dict) or not isinstance(head, dict):
        return
    if not test_cfg.get('instance_on', False):
        return
    queries = head.get('num_queries', 100)
    classes = head.get('num_things_classes', 80) + head.get('num_stuff_classes', 53)
    wanted = test_cfg.get('max_per_image', 100)
    if wanted is not None and wanted > queries * classes:
        yield Problem(
            f'{path}.test_cfg.max_per_image',
            f'is {wanted}, more than {queries} queries x {classes} classes',
            f'Set it to {queries * classes} or less',
        )
