"""One value reaches all places that depend on it, and none that has its own."""

from __future__ import annotations

import copy

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS
from project import SHIPPED, config

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import ConfigError, finalise_config


def found(node, key, path=''):
    """Values of a key anywhere below, by path."""
    items = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, (list, tuple))
        else ()
    )
    values = {}
    for name, value in items:
        if name == key:
            values[f'{path}{name}'] = value
        values.update(found(value, key, f'{path}{name}.'))
    return values


# num_classes

UPERNET = dict(
    type='EncoderDecoder',
    backbone=dict(type='SwinTransformer', embed_dims=96),
    decode_head=dict(type='UPerHead', num_classes=19, loss_decode=dict(type='CrossEntropyLoss')),
    auxiliary_head=[dict(type='FCNHead', num_classes=19), dict(type='FCNHead', num_classes=19)],
)


@pytest.fixture(autouse=True)
def parts_of_mmseg(monkeypatch):
    """Stand-ins with the arguments of MMSegmentation's classes."""

    class EncoderDecoder:
        def __init__(self, backbone, decode_head, neck=None, auxiliary_head=None, teacher=None):
            pass

    class UPerHead:
        def __init__(self, num_classes, loss_decode=None):
            pass

    class FCNHead(UPerHead):
        pass

    for kind in (EncoderDecoder, UPerHead, FCNHead):
        monkeypatch.setitem(MODELS._module_dict, kind.__name__, kind)


@pytest.mark.parametrize('num_classes', [1, 2, 7])
@pytest.mark.parametrize('name', ['mask_rcnn_swin-nano_cmr', 'mask_rcnn_r50_fpn'])
def test_two_stage_heads(name, num_classes):
    model = finalise_config(config(name, num_classes=num_classes)).model
    assert found(model, 'num_classes') == {
        'roi_head.bbox_head.num_classes': num_classes,
        'roi_head.mask_head.num_classes': num_classes,
    }


def test_cascade_heads():
    model = finalise_config(config('cascade_mask_rcnn_swin-s_fpn', num_classes=2)).model
    assert found(model, 'num_classes') == {
        **{f'roi_head.bbox_head.{i}.num_classes': 2 for i in range(3)},
        'roi_head.mask_head.num_classes': 2,
    }


def test_head_that_says_no_number_gets_one():
    cfg = config(num_classes=5)
    del cfg.model.roi_head.bbox_head['num_classes']
    assert finalise_config(cfg).model.roi_head.bbox_head.num_classes == 5


@pytest.mark.parametrize('num_classes', [1, 3])
def test_mask2former_counts_things_and_weighs_them(num_classes):
    model = finalise_config(config('mask2former_swin-t', num_classes=num_classes)).model
    for part in (model.panoptic_head, model.panoptic_fusion_head):
        assert (part.num_things_classes, part.num_stuff_classes) == (num_classes, 0)
    assert model.panoptic_head.loss_cls.class_weight == [1.0] * num_classes + [0.1]
    assert 'num_classes' not in str(model).replace('num_things_classes', '').replace(
        'num_stuff_classes', ''
    )


def test_mask2former_with_stuff():
    cfg = config('mask2former_swin-t', num_things_classes=2, num_stuff_classes=3, num_classes=5)
    model = finalise_config(cfg).model
    assert len(model.panoptic_head.loss_cls.class_weight) == 6
    assert model.panoptic_fusion_head.num_stuff_classes == 3
    cfg = config('mask2former_swin-t', num_things_classes=2, num_stuff_classes=3, num_classes=4)
    with pytest.raises(ConfigError, match='num_classes: is 4, but there are 2 num_things'):
        finalise_config(cfg)


def test_weights_of_ones_own_are_not_guessed():
    options = {'model.panoptic_head.loss_cls.class_weight': [1.0, 2.0, 0.1]}
    cfg = config('mask2former_swin-t', num_classes=2, **options)
    assert finalise_config(cfg).model.panoptic_head.loss_cls.class_weight == [1.0, 2.0, 0.1]
    cfg = config('mask2former_swin-t', num_classes=3, **options)
    with pytest.raises(ConfigError, match='class_weight: has 3 weights for 4 classes'):
        finalise_config(cfg)


@pytest.mark.parametrize('queries, wanted, fits', [(20, 60, True), (20, 61, False)])
def test_more_instances_than_queries_and_classes(queries, wanted, fits):
    cfg = config('mask2former_swin-t', num_classes=3)
    cfg.model.panoptic_head.num_queries = queries
    cfg.model.test_cfg.max_per_image = wanted
    if fits:
        finalise_config(cfg)
    else:
        with pytest.raises(ConfigError, match='is 61, more than 20 queries x 3 classes'):
            finalise_config(cfg)


def test_numbers_of_a_teacher_and_of_a_backbone_stay():
    cfg = Config(dict(num_classes=4, default_scope='mmdet', model=copy.deepcopy(UPERNET)))
    cfg.model.teacher = dict(type='UPerHead', num_classes=19)
    model = finalise_config(cfg).model
    assert model.teacher.num_classes == 19 and 'num_classes' not in model.backbone
    assert model.decode_head.num_classes == 4
    assert [head.num_classes for head in model.auxiliary_head] == [4, 4]


def test_a_loss_with_a_number():
    cfg = config('mask_rcnn_r50_fpn', num_classes=6)
    cfg.model.roi_head.bbox_head.loss_cls = dict(type='SeesawLoss', num_classes=1203)
    assert finalise_config(cfg).model.roi_head.bbox_head.loss_cls.num_classes == 6


# data_root and image_scale


@pytest.mark.parametrize('name', SHIPPED)
def test_image_scale_reaches_every_transform_that_resizes(name):
    cfg = finalise_config(config(name, image_scale=(64, 96)))
    for split, kind in (('train', 'RandomResize'), ('val', 'Resize'), ('test', 'Resize')):
        pipeline = cfg[f'{split}_dataloader'].dataset.pipeline
        assert [t.scale for t in pipeline if t.type == kind] == [(64, 96)]


def test_a_scale_of_ones_own_stays():
    cfg = config(**{'train_dataloader.dataset.pipeline.2.scale': (32, 32), 'image_scale': (8, 8)})
    cfg = finalise_config(cfg)
    assert cfg.train_dataloader.dataset.pipeline[2].scale == (32, 32)
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (8, 8)


def test_wrapped_data_sets_get_data_root():
    cfg = config(data_root='/data/mine')
    inner = cfg.train_dataloader.dataset
    own = dict(copy.deepcopy(inner), data_root='/data/own')
    cfg.train_dataloader.dataset = dict(
        type='ClassBalancedDataset',
        oversample_thr=0.1,
        dataset=dict(
            type='MultiImageMixDataset',
            pipeline=[],
            dataset=dict(
                type='RepeatDataset',
                times=2,
                dataset=dict(type='ConcatDataset', datasets=[inner, own]),
            ),
        ),
    )
    found_roots = found(finalise_config(cfg).train_dataloader, 'data_root')
    assert list(found_roots.values()) == ['/data/mine', '/data/own']


@pytest.mark.parametrize('key, value', [('data_root', '/data/other'), ('image_scale', (64, 64))])
def test_another_value_for_a_config_that_a_run_has_left(key, value):
    dumped = Config.fromstring(finalise_config(config()).pretty_text, '.py')
    dumped[key] = value
    cfg = finalise_config(dumped)
    assert cfg.to_dict() == finalise_config(config(**{key: value})).to_dict()


@pytest.mark.parametrize('key, value', [('data_root', '/data/other'), ('image_scale', (64, 64))])
def test_value_that_reaches_nothing_is_refused(key, value):
    cfg = finalise_config(config())
    cfg.pop('inherited')
    cfg[key] = value
    with pytest.raises(ConfigError, match=f'{key}: is .* all that it is for have their own'):
        finalise_config(cfg)


# Length


def test_max_epochs_reaches_the_loop():
    cfg = finalise_config(config(max_epochs=7))
    assert cfg.train_cfg.max_epochs == 7


@pytest.mark.parametrize(
    'loop, key',
    [
        (dict(type='IterBasedTrainLoop', max_iters=9), 'max_epochs'),
        (dict(by_epoch=False, max_iters=9), 'max_epochs'),
        (dict(type='EpochBasedTrainLoop', max_epochs=9), 'max_iters'),
        (dict(by_epoch=True, max_epochs=9), 'max_iters'),
    ],
)
def test_length_of_the_other_kind_is_refused(loop, key):
    cfg = config()
    cfg.pop('max_epochs')
    cfg.train_cfg = loop
    cfg[key] = 5
    with pytest.raises(ConfigError, match=f'{key}: .* counts'):
        finalise_config(cfg)


def test_max_iters_reaches_the_loop_and_its_schedulers():
    cfg = config()
    cfg.pop('max_epochs')
    cfg.max_iters = 50
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9, val_interval=5)
    cfg.param_scheduler = [
        dict(type='OneCycleLR', eta_max=1, total_steps=9, by_epoch=False),
        dict(type='OneCycleLR', eta_max=1, total_steps=9),
    ]
    cfg = finalise_config(cfg)
    assert cfg.train_cfg.max_iters == 50
    assert [scheduler.total_steps for scheduler in cfg.param_scheduler] == [50, 9]


# annotation_index


@pytest.mark.parametrize('value', [False, True, '/tmp/index'])
def test_annotation_index_reaches_data_sets_that_may_have_one(value):
    cfg = config()
    plain = dict(type='CocoDataset', ann_file='a.json', data_root='data', pipeline=[])
    mine = dict(type='CMRDataset', ann_file='a.json', data_root='data', pipeline=[])
    own = dict(mine, index='elsewhere')
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[plain, mine, own])
    cfg.annotation_index = value
    finalise_config(cfg)
    assert [d.get('index') for d in cfg.train_dataloader.dataset.datasets] == [
        None,
        value,
        'elsewhere',
    ]


def test_annotation_index_is_a_switch_or_a_folder():
    cfg = config()
    cfg.annotation_index = 5
    with pytest.raises(ConfigError, match='annotation_index'):
        finalise_config(cfg)
