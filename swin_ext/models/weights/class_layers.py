"""Rows of a head that belong to classes, moved to where another list of classes has them.

Which layers have such rows is read off the model that is to be trained, for heads of mmdet,
mmsegmentation and whatever else has a `num_classes`: a layer with a name of a classifier, or as
many rows as there are classes. Queries and what else does not count classes stays as it is.

    layers = find_class_layers(model, target_classes)
    adapted = remap_class_layers(
        state_dict, model.state_dict(), layers, source_classes, target_classes
    )
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from swin_ext.models.weights.recognition import SwinWeightsError

# Last modules of heads that score classes: fc_cls (boxes, DETR), conv_cls (FCOS), retina_cls and
# the like, cls_embed (MaskFormer), class_embed, cls_branches.N (Deformable DETR), conv_seg (mmseg),
# conv_logits and fc_logits (masks), fc_mask_iou, multi_level_conv_cls.N (YOLOX), rtm_cls.N.
_SCORES = re.compile(
    r'(?:^|\.)(?:\w*_cls|\w*cls_pred|cls_embed|class_embed|cls_branches|cls_score'
    r'|class_predictor|conv_seg|\w*_logits|fc_mask_iou)(?:\.\d+)*$'
)
# Those that place boxes and masks: as many rows as coordinates, which may happen to be as many as
# there are classes. (Hidden layers, which may so too, are told by as many inputs as outputs.)
_COORDINATES = re.compile(r'reg|bbox_(?:embed|pred)|box|offset|center|iou|coord|angle|points|mask')
# One entry, or one row, for each class.
_ENTRIES = re.compile(r'(?:^|\.)(?:empty_weight|class_weight|label_embedding\.weight)$')
# Parts that count classes of their own, if any.
_NOT_HEADS = {'backbone', 'neck', 'teacher', 'rpn_head', 'pixel_decoder'}


class ClassLayer(NamedTuple):
    """What the rows of a tensor stand for: (repeats, classes + background, rows per class).

    Attributes:
        repeats: Anchors of a place, each with all classes, in the outermost order.
        per_class: Rows of one class, one after the other.
        background: Whether one more class, last, is none of the list.
        problem: Why the rows cannot be told apart; None if they can.
    """

    repeats: int = 1
    per_class: int = 1
    background: bool = False
    problem: str | None = None


@dataclass
class RemappedLayers:
    """A state dict for other classes.

    Attributes:
        kept: Target classes whose rows come from the source.
        fresh: Target classes whose rows are those that the model was initialised with.
        dropped: Source classes that the target does not have.
        remapped: Keys whose rows were moved.
        reinitialised: Keys that are left out, so that the model keeps its own, with the reason.
    """

    state_dict: dict[str, Tensor]
    kept: list[str]
    fresh: list[str]
    dropped: list[str]
    remapped: list[str] = field(default_factory=list)
    reinitialised: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        if not self.remapped and not self.reinitialised:
            return (
                'other classes than the checkpoint, whose class-dependent layers, if any, are not '
                'those of the model'
            )
        return (
            f'rows of classes in {len(self.remapped)} tensors: {len(self.kept)} classes kept '
            f'{self.kept}, {len(self.fresh)} re-initialised {self.fresh}, {len(self.dropped)} of '
            f'the checkpoint not used {self.dropped}'
        )


def find_class_layers(model: nn.Module, num_classes: int) -> dict[str, ClassLayer]:
    """Find the tensors of a model that have rows or entries of classes.

    Returns:
        Layers by the keys of `model.state_dict()`.
    """
    heads = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, 'num_classes', None), int)
        and not _NOT_HEADS.intersection(name.split('.'))
    }
    found = {}
    for name, module in model.named_modules():
        if _NOT_HEADS.intersection(name.split('.')) or isinstance(module, _ConvTransposeNd):
            continue
        owners = [head for head in heads if not head or name.startswith(f'{head}.')]
        if isinstance(module, (nn.Linear, _ConvNd)) and owners:
            owner = heads[max(owners, key=len)]
            layer = _layer_of(name, *module.weight.shape[:2], num_classes, owner)
            if layer is not None:
                leaves = ('weight', 'bias') if module.bias is not None else ('weight',)
                found.update({f'{name}.{leaf}': layer for leaf in leaves})
    for key, tensor in model.state_dict().items():
        if _ENTRIES.search(key) and tensor.ndim:
            found[key] = _scores(key, len(tensor), num_classes, None)
    return found


def _layer_of(
    name: str, rows: int, width: int, num_classes: int, head: nn.Module
) -> ClassLayer | None:
    """Tell what the rows of a linear or convolutional layer stand for; None if not for classes."""
    if _SCORES.search(name):
        is_agnostic = getattr(head, 'class_agnostic', rows == 1 < num_classes)
        return None if is_agnostic else _scores(name, rows, num_classes, head)
    if name.split('.')[-1] == 'fc_reg':
        if getattr(head, 'reg_class_agnostic', rows == 4 < 4 * num_classes):
            return None
        if rows % num_classes:
            return ClassLayer(problem=f'its {rows} rows are no multiple of {num_classes} classes')
        return ClassLayer(per_class=rows // num_classes)
    own_name = next(part for part in reversed(name.split('.')) if not part.isdecimal())
    if _COORDINATES.search(own_name):
        return None
    if own_name == 'convs_pred':  # of YOLOv3
        return ClassLayer(problem='boxes and classes share its rows')
    per_place = getattr(head, 'cls_out_channels', None)
    anchors = getattr(head, 'num_base_priors', None)
    anchors = anchors if isinstance(anchors, (list, tuple)) else [anchors]
    if per_place and any(isinstance(n, int) and n > 1 and n * per_place == rows for n in anchors):
        return _scores(name, rows, num_classes, head)  # of SSD, whose last layers have no names
    if rows in (num_classes, num_classes + 1) and rows != width:
        return ClassLayer(problem=f'it has {rows} rows, perhaps one per class, in an unknown order')
    return None


def _scores(name: str, rows: int, num_classes: int, head: nn.Module | None) -> ClassLayer:
    """Divide rows of scores into anchors and classes."""
    declared = getattr(head, 'cls_out_channels', None)
    widths = [w for w in (num_classes, num_classes + 1) if rows % w == 0]
    if declared in widths:
        widths = [declared]
    elif rows in widths:
        widths = [rows]
    if len(widths) != 1:
        return ClassLayer(problem=f'its {rows} rows are not those of {num_classes} classes')
    background = widths[0] == num_classes + 1
    if background and name.split('.')[-1] == 'conv_seg':
        # Label 0 in most segmentation data sets, the last one in others.
        return ClassLayer(problem='its place of the background is not known')
    return ClassLayer(repeats=rows // widths[0], background=background)


def remap_class_layers(
    state_dict: Mapping,
    model_state: Mapping,
    layers: Mapping[str, ClassLayer],
    source_classes: Sequence[str],
    target_classes: Sequence[str],
) -> RemappedLayers:
    """Rearrange class-dependent layers for another list of classes.

    Classes of the same name in both lists keep their rows, in the target's order; other rows are
    those that the model was initialised with. The background of a softmax, last in mmdet 2.x and
    3.x, and Mask2Former's 'no object' are kept. A layer of which that cannot be done is left out.

    Args:
        state_dict: Of the checkpoint, under the model's names.
        model_state: `state_dict()` of the initialised model.
        layers: What `find_class_layers` found in it.

    Raises:
        SwinWeightsError: If a name occurs twice in a list, or a list is empty.
    """
    for title, classes in (('source', source_classes), ('target', target_classes)):
        repeated = sorted(name for name, count in Counter(classes).items() if count > 1)
        if repeated or not classes:
            raise SwinWeightsError(
                f'The {title} classes {list(classes)} must be unique names, at '
                f'least one; repeated: {repeated}.'
            )
    result = RemappedLayers(
        dict(state_dict),
        kept=[name for name in target_classes if name in source_classes],
        fresh=[name for name in target_classes if name not in source_classes],
        dropped=[name for name in source_classes if name not in target_classes],
    )
    present = [key for key in layers if key in state_dict]
    hint = _background_first(state_dict, layers, present, len(source_classes))
    for key in present:
        layer, tensor, own = layers[key], state_dict[key], model_state[key]
        problem = layer.problem or hint or _misfit(layer, tensor, own, len(source_classes))
        if problem:
            del result.state_dict[key]
            result.reinitialised[key] = problem
            continue
        old, new = (
            x.reshape(layer.repeats, -1, layer.per_class, *x.shape[1:])
            for x in (tensor, own.detach().to(tensor, copy=True))
        )
        for i, name in enumerate(target_classes):
            if name in source_classes:
                new[:, i] = old[:, list(source_classes).index(name)]
        if layer.background:
            new[:, -1] = old[:, -1]
        result.state_dict[key] = new.reshape(own.shape)
        result.remapped.append(key)
    return result


def _misfit(layer: ClassLayer, tensor: Tensor, own: Tensor, num_source: int) -> str | None:
    expected = layer.repeats * (num_source + layer.background) * layer.per_class
    if tensor.ndim == 0 or len(tensor) != expected:
        rows = len(tensor) if tensor.ndim else 0
        return f'it has {rows} rows, but {num_source} classes of the checkpoint ask for {expected}'
    if tensor.shape[1:] != own.shape[1:]:
        return f'{list(tensor.shape)} in the file, {list(own.shape)} in the model'
    return None


def _background_first(
    state_dict: Mapping, layers: Mapping, present: Iterable[str], num_source: int
) -> str | None:
    """Recognise mmdet 1.x, whose boxes and masks have rows of a background, which is first."""
    for key in present:
        layer, rows = layers[key], len(state_dict[key]) if state_dict[key].ndim else 0
        is_box_or_mask = key.split('.')[-2:-1] in (['fc_reg'], ['conv_logits'])
        if is_box_or_mask and rows == layer.per_class * (num_source + 1) and rows > 1:
            return (
                f'{key} has {rows} rows for {num_source} classes, which suggests a model of mmdet '
                '1.x, with the background first: convert it with mmdet 2.x '
                '(tools/model_converters/upgrade_model_version.py)'
            )
    return None
