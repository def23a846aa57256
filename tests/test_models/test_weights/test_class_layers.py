"""Rows of classes find their place by name, in the heads of every family."""

from __future__ import annotations

import mmdet.models  # noqa: F401  # registers the heads
import pytest
import torch
from mmdet.registry import MODELS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from swin_ext.models.weights.class_layers import find_class_layers, remap_class_layers
from swin_ext.models.weights.recognition import SwinWeightsError

SOURCE = ('RV', 'LV', 'Myo')
TARGETS = [
    ('LV', 'Myo', 'RV'),  # permuted
    ('LV', 'scar', 'Myo', 'RV', 'fat'),  # added
    ('Myo',),  # removed
    ('Myo', 'scar', 'RV'),  # as many, but others
    ('cat', 'dog', 'cow', 'pig'),  # none in common
]


def build(cfg):
    register_all_modules(init_default_scope=False)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(Config(cfg)._cfg_dict)


def bbox_head(num_classes, **kwargs):
    return dict(
        type='Shared2FCBBoxHead',
        in_channels=4,
        fc_out_channels=12,
        num_classes=num_classes,
        **kwargs,
    )


def mask_rcnn(num_classes):
    return nn.ModuleDict(
        dict(
            bbox_head=build(bbox_head(num_classes)),
            mask_head=build(
                dict(
                    type='FCNMaskHead',
                    num_convs=1,
                    in_channels=4,
                    conv_out_channels=4,
                    num_classes=num_classes,
                )
            ),
        )
    )


def cascade(num_classes):
    heads = [bbox_head(num_classes, reg_class_agnostic=True) for _ in range(2)]
    masks = dict(
        type='FCNMaskHead', num_convs=1, in_channels=4, conv_out_channels=4, num_classes=num_classes
    )
    return nn.ModuleDict(
        dict(
            bbox_head=nn.ModuleList(map(build, heads)),
            mask_head=nn.ModuleList(map(build, [masks, masks])),
        )
    )


def mask2former(num_classes):
    cfg = Config.fromfile(
        f'{mmdet.__path__[0]}/.mim/configs/mask2former/mask2former_r50_8xb2-lsj-50e_coco.py'
    )
    head = cfg.model.panoptic_head
    head.update(
        in_channels=[4, 4, 4, 4],
        feat_channels=16,
        out_channels=16,
        num_things_classes=num_classes,
        num_stuff_classes=0,
        num_queries=5,
    )
    head.loss_cls.class_weight = [1.0] * num_classes + [0.1]
    encoder = head.pixel_decoder.encoder
    encoder.num_layers = 1
    for layer in (encoder.layer_cfg, head.transformer_decoder.layer_cfg):
        layer.self_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = 16
        layer.self_attn_cfg.num_heads = 2
        layer.ffn_cfg.feedforward_channels = 24
    head.transformer_decoder.num_layers = 1
    head.transformer_decoder.layer_cfg.cross_attn_cfg.update(embed_dims=16, num_heads=2)
    head.pixel_decoder.positional_encoding.num_feats = 8
    head.pixel_decoder.norm_cfg.num_groups = 4
    head.positional_encoding.num_feats = 8
    return nn.ModuleDict(dict(panoptic_head=build(head)))


def retinanet(num_classes):
    return nn.ModuleDict(
        dict(
            bbox_head=build(
                dict(
                    type='RetinaHead',
                    num_classes=num_classes,
                    in_channels=4,
                    feat_channels=8,
                    stacked_convs=1,
                )
            )
        )
    )


def fcos(num_classes):
    return nn.ModuleDict(
        dict(
            bbox_head=build(
                dict(
                    type='FCOSHead',
                    num_classes=num_classes,
                    in_channels=4,
                    feat_channels=8,
                    stacked_convs=1,
                    norm_cfg=dict(type='BN'),
                )
            )
        )
    )


def ssd(num_classes):
    return nn.ModuleDict(
        dict(
            bbox_head=build(
                dict(
                    type='SSDHead',
                    num_classes=num_classes,
                    in_channels=(8, 8, 8),
                    anchor_generator=dict(
                        type='SSDAnchorGenerator',
                        strides=[8, 16, 32],
                        ratios=[[2], [2, 3], [2, 3]],
                        basesize_ratio_range=(0.2, 0.9),
                        input_size=300,
                    ),
                )
            )
        )
    )


class SegmentationHead(nn.Module):
    """What mmsegmentation's decode heads have of classes."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.fpn_bottleneck = nn.Conv2d(8, 8, 3)
        self.conv_seg = nn.Conv2d(8, num_classes, 1)


class UPerNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes  # as mmsegmentation's EncoderDecoder
        self.backbone = nn.Linear(4, 3)
        self.decode_head = SegmentationHead(num_classes)
        self.auxiliary_head = SegmentationHead(num_classes)


class Criterion(nn.Module):
    """Class weights that are kept in a checkpoint, as Hugging Face's Mask2Former does."""

    def __init__(self, num_classes):
        super().__init__()
        weights = torch.ones(num_classes + 1)
        weights[-1] = 0.1
        self.register_buffer('empty_weight', weights)


def deformable_detr(num_classes):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_classes = num_classes
            self.cls_branches = nn.ModuleList(nn.Linear(8, num_classes) for _ in range(2))
            self.reg_branches = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4)) for _ in range(2)
            )
            self.label_embedding = nn.Embedding(num_classes, 8)
            self.query_embedding = nn.Embedding(3, 8)
            self.criterion = Criterion(num_classes)

    return nn.ModuleDict(dict(bbox_head=Head()))


# Tensors with rows of classes: anchors, rows per class, whether the last class is the background.
FAMILIES = {
    mask_rcnn: {
        'bbox_head.fc_cls': (1, 1, True),
        'bbox_head.fc_reg': (1, 4, False),
        'mask_head.conv_logits': (1, 1, False),
    },
    cascade: {
        **{f'bbox_head.{i}.fc_cls': (1, 1, True) for i in range(2)},
        **{f'mask_head.{i}.conv_logits': (1, 1, False) for i in range(2)},
    },
    mask2former: {'panoptic_head.cls_embed': (1, 1, True)},
    retinanet: {'bbox_head.retina_cls': (9, 1, False)},
    fcos: {'bbox_head.conv_cls': (1, 1, False)},
    ssd: {f'bbox_head.cls_convs.{i}.0': ((4, 6, 6)[i], 1, True) for i in range(3)},
    UPerNet: {f'{head}_head.conv_seg': (1, 1, False) for head in ('decode', 'auxiliary')},
    deformable_detr: {
        **{f'bbox_head.cls_branches.{i}': (1, 1, False) for i in range(2)},
        'bbox_head.label_embedding': (1, 1, False),
        'bbox_head.criterion.empty_weight': (1, 1, True),
    },
}


def drawn(model, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for key, tensor in model.state_dict().items()
    }


def layout_of(key, layers):
    return layers.get(key) or layers.get(key.rpartition('.')[0])


@pytest.mark.parametrize('target', TARGETS, ids=','.join)
@pytest.mark.parametrize('family', FAMILIES, ids=lambda family: family.__name__)
def test_rows_follow_the_names(family, target):
    model = family(len(target))
    model.load_state_dict(drawn(model, seed=1))
    source = drawn(family(len(SOURCE)), seed=2)
    before = {key: tensor.clone() for key, tensor in source.items()}
    found = find_class_layers(model, len(target))
    own = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = remap_class_layers(source, model.state_dict(), found, SOURCE, target)

    model.load_state_dict(result.state_dict, strict=True)
    assert result.reinitialised == {}
    assert result.kept == [name for name in target if name in SOURCE]
    assert result.fresh == [name for name in target if name not in SOURCE]
    assert result.dropped == [name for name in SOURCE if name not in target]
    assert set(result.remapped) == {key for key in source if layout_of(key, FAMILIES[family])}
    for key, loaded in model.state_dict().items():
        assert torch.equal(source[key], before[key])
        layout = layout_of(key, FAMILIES[family])
        if layout is None:
            assert torch.equal(loaded, source[key]), key
            continue
        anchors, per_class, background = layout
        width = (len(target) + background) * per_class
        old_width = (len(SOURCE) + background) * per_class
        assert len(loaded) == anchors * width
        for row, values in enumerate(loaded):
            anchor, place = divmod(row, width)
            i, j = divmod(place, per_class)
            name = target[i] if i < len(target) else None
            if name in SOURCE:
                expected = source[key][anchor * old_width + SOURCE.index(name) * per_class + j]
            elif name is None:
                expected = source[key][(anchor + 1) * old_width - 1]
            else:
                expected = own[key][row]
            assert torch.equal(values, expected), (key, row)


class UnknownHead(nn.Module):
    """Layers whose rows may be of classes, under names that say nothing."""

    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.hidden = nn.Linear(8, 8)
        self.final = nn.Linear(8, num_classes)
        self.level_embed = nn.Embedding(3, 8)
        self.fc_reg = nn.Linear(8, 4)
        self.reg_class_agnostic = True


def test_a_layer_that_cannot_be_remapped_is_left_out():
    model = nn.ModuleDict(dict(head=UnknownHead(3)))
    source = drawn(model, seed=2)
    layers = find_class_layers(model, 3)
    result = remap_class_layers(source, model.state_dict(), layers, SOURCE, TARGETS[0])
    assert set(result.reinitialised) == {'head.final.weight', 'head.final.bias'}
    assert source.keys() - result.state_dict.keys() == set(result.reinitialised)
    assert 'perhaps one per class' in result.reinitialised['head.final.bias']


@pytest.mark.parametrize('rows', [4, 5])
def test_segmentation_with_a_background_somewhere_is_left_out(rows):
    """Class 0 in one convention, the last one in the other."""
    model = UPerNet(3)
    for head in (model.decode_head, model.auxiliary_head):
        head.conv_seg = nn.Conv2d(8, rows, 1)
    source = drawn(model, seed=2)
    layers = find_class_layers(model, 3)
    result = remap_class_layers(source, model.state_dict(), layers, SOURCE, TARGETS[0])
    assert len(result.reinitialised) == 4


def test_background_by_name_is_a_class_like_others():
    source, target = ('background', *SOURCE), ('background', *TARGETS[0])
    model = UPerNet(4)
    state = drawn(model, seed=2)
    result = remap_class_layers(
        state, model.state_dict(), find_class_layers(model, 4), source, target
    )
    weight = 'decode_head.conv_seg.weight'
    assert torch.equal(result.state_dict[weight], state[weight][[0, 2, 3, 1]])


def test_class_agnostic_layers_are_kept():
    model = nn.ModuleDict(
        dict(
            bbox_head=build(bbox_head(2, reg_class_agnostic=True)),
            mask_head=build(
                dict(type='FCNMaskHead', num_convs=1, class_agnostic=True, num_classes=2)
            ),
        )
    )
    layers = find_class_layers(model, 2)
    assert set(layers) == {'bbox_head.fc_cls.weight', 'bbox_head.fc_cls.bias'}


def test_other_number_of_rows_than_the_list_says():
    model = mask_rcnn(2)
    source = drawn(mask_rcnn(4), seed=2)
    result = remap_class_layers(
        source, model.state_dict(), find_class_layers(model, 2), SOURCE, ('LV', 'RV')
    )
    assert result.remapped == []
    assert (
        'it has 5 rows, but 3 classes of the checkpoint ask for 4'
        in result.reinitialised['bbox_head.fc_cls.weight']
    ) or '1.x' in result.reinitialised['bbox_head.fc_cls.weight']


def test_background_first_of_mmdet_1_is_left_out():
    model = mask_rcnn(3)
    source = drawn(model, seed=2)
    source['bbox_head.fc_reg.weight'] = torch.zeros(16, 12)
    result = remap_class_layers(
        source, model.state_dict(), find_class_layers(model, 3), SOURCE, TARGETS[0]
    )
    assert set(result.reinitialised) == {
        f'{layer}.{leaf}' for layer in FAMILIES[mask_rcnn] for leaf in ('weight', 'bias')
    }
    for reason in result.reinitialised.values():
        assert 'fc_reg.weight has 16 rows' in reason
        assert 'mmdet 1.x, with the background first' in reason


@pytest.mark.parametrize(
    'source, target, message',
    [
        (('a', 'b', 'a'), ('a',), r"source classes.*repeated: \['a'\]"),
        (SOURCE, (), 'target classes'),
    ],
)
def test_lists_that_are_none(source, target, message):
    with pytest.raises(SwinWeightsError, match=message):
        remap_class_layers({}, {}, {}, source, target)
