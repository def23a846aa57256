"""Misspelt keys are refused by name, and nothing that is right is."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import mmdet
import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS
from project import SHIPPED, config

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import ConfigError, finalise_config
from swin_ext.utils.errors import UserError

UPSTREAM = Path(mmdet.__file__).parent / '.mim/configs'


def refused(cfg):
    with pytest.raises(ConfigError) as caught:
        finalise_config(cfg)
    return {problem.path: str(problem) for problem in caught.value.problems}


@pytest.mark.parametrize(
    'option, meant',
    [
        ('max_epoch', 'max_epochs'),
        ('num_class', 'num_classes'),
        ('trian_dataloader.batch_size', 'train_dataloader.batch_size'),
        ('loadfrom', 'load_from'),
        ('train_dataloader.batchsize', 'train_dataloader.batch_size'),
        ('train_dataloader.dataset.filter_cfg.filter_empty', 'filter_cfg.filter_empty_gt'),
        ('train_dataloader.dataset.metainfo.CLASSES', 'metainfo.classes'),
        ('train_dataloader.dataset.anno_file', 'train_dataloader.dataset.ann_file'),
        ('train_dataloader.sampler.shufle', 'train_dataloader.sampler.shuffle'),
        ('model.test_cfg.rcnn.score_th', 'model.test_cfg.rcnn.score_thr'),
        ('model.test_cfg.rcnn.nms.iou_thresh', 'model.test_cfg.rcnn.nms.iou_threshold'),
        ('model.train_cfg.rpn.assigner.pos_iou_th', 'model.train_cfg.rpn.assigner.pos_iou_thr'),
        ('model.backbone.drop_path', 'model.backbone.drop_path_rate'),
        ('model.roi_head.mask_head.num_conv', 'model.roi_head.mask_head.num_convs'),
        ('default_hooks.checkpoint.intervall', 'default_hooks.checkpoint.interval'),
        ('default_hooks.chekpoint', 'default_hooks.checkpoint'),
        ('best.metrik', 'custom_hooks.2.metric'),
        ('bst.metric', 'best.metric'),
        ('optim_wrapper.clip_grad.maxnorm', 'optim_wrapper.clip_grad.max_norm'),
        ('optim_wrapper.optimizer.learning_rate', 'optim_wrapper.optimizer'),
        ('randomness.sed', 'randomness.seed'),
        ('env_cfg.cudnn_benchmrk', 'env_cfg.cudnn_benchmark'),
        ('img_scale', 'image_scale'),
        ('visualizer.vis_backend', 'visualizer.vis_backends'),
        ('train_cfg.max_epoch', 'train_cfg.max_epochs'),
    ],
)
def test_misspelt_option_is_refused_with_the_name_that_was_meant(option, meant):
    cfg = config()
    cfg.merge_from_dict({option: 1})
    (problem,) = refused(cfg).values()
    assert problem.split(':')[0].endswith(option.rpartition('.')[2]) and meant in problem


@pytest.mark.parametrize(
    'option', ['batch_size', 'epochs', 'lr', 'adamw_2.lr'], ids='{} alone'.format
)
def test_option_that_nothing_reads_is_refused(option):
    cfg = config()
    cfg.merge_from_dict({option: 1})
    assert list(refused(cfg)) == [option]


def test_variables_of_a_config_file_are_free(tmp_path):
    base = config().filename
    (tmp_path / 'mine.py').write_text(
        f'_base_ = [{base!r}]\nbatch_size = 3\nmy_scale = (3, 4)\ntrain_pipeline_2 = []\n'
    )
    cfg = finalise_config(Config.fromfile(tmp_path / 'mine.py'))
    assert cfg.batch_size == 3
    (tmp_path / 'mine.py').write_text(f'_base_ = [{base!r}]\nnum_class = 3\n')
    assert (
        'Did you mean num_classes?' in refused(Config.fromfile(tmp_path / 'mine.py'))['num_class']
    )


def test_all_problems_are_listed_at_once():
    cfg = config(max_epoch=3, resme=True, model__backbone__arhc='tiny', randomness__seed='x')
    problems = refused(cfg)
    assert list(problems) == ['max_epoch', 'resme', 'model.backbone.arhc', 'randomness.seed']
    with pytest.raises(UserError, match='has 4 problems:') as caught:
        finalise_config(cfg)
    assert isinstance(caught.value, ValueError) and cfg.filename in str(caught.value)


@pytest.mark.parametrize(
    'path',
    [
        'custom_hooks.1',
        'default_hooks.timer',
        'model.backbone',
        'model.roi_head.bbox_head',
        'train_dataloader.dataset.pipeline.2',
        'train_dataloader.sampler',
        'val_evaluator.0',
        'visualizer.vis_backends.1',
        'param_scheduler.0',
        'optim_wrapper.optimizer',
    ],
)
def test_part_without_a_type(path):
    cfg = config()
    part = cfg
    for key in path.split('.'):
        part = part[int(key) if key.isdigit() else key]
    kind = part.pop('type')
    assert 'this part has no type' in refused(copy.deepcopy(cfg))[path]
    part['tpye'] = kind
    assert 'Did you mean' in refused(copy.deepcopy(cfg))[f'{path}.tpye']
    part['type'] = part.pop('tpye') + 'x'
    problem = refused(cfg)[f'{path}.type']
    assert f'nothing is registered as {kind}x' in problem and f'mean {kind}?' in problem


@pytest.mark.parametrize(
    'option, value',
    [
        ('num_classes', 0),
        ('num_classes', 'three'),
        ('max_epochs', 1.5),
        ('image_scale', 256),
        ('resume', 'auto'),
        ('train_dataloader.batch_size', 0),
        ('train_dataloader.num_workers', -1),
        ('model.test_cfg.rcnn.score_thr', 5),
        ('env_cfg.mp_cfg.mp_start_method', 'thread'),
        ('custom_hooks', {'2': dict(metric='cmr/dice')}),
    ],
)
def test_value_that_cannot_be(option, value):
    cfg = config()
    if option == 'custom_hooks':  # what custom_hooks.2.metric=... makes where there is no list
        cfg.pop(option)
    cfg.merge_from_dict({option: value})
    assert any(path.startswith(option) for path in refused(cfg))


# Generated slips


def paths_of(node, path=()):
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in items:
        if isinstance(key, str):
            yield (*path, key)
        if isinstance(value, (dict, list, tuple)):
            yield from paths_of(value, (*path, key))


def slip_in(key, draw):
    """The key with a letter less, or with two letters swapped."""
    i = draw.randrange(len(key))
    if draw.random() < 0.5 and key[i : i + 2] != key[i : i + 2][::-1]:
        return key[:i] + key[i : i + 2][::-1] + key[i + 2 :]
    return key[:i] + key[i + 1 :]


# Names that a user gives: of modules whose parameters are meant. And a variable of a piece, which
# is read by its name while the config is, so that another name is an error there.
FREE = {'lr_mult', 'custom_keys', 'no_decay'}


@pytest.mark.parametrize('name', SHIPPED)
def test_each_key_with_a_slip_is_refused(name):
    cfg = config(name)
    plain = {key: value for key, value in cfg.to_dict().items() if key != 'default_scope'}
    missed, total = [], 0
    for path in paths_of(plain):
        if len(path) > 1 and path[-2] in FREE:
            continue
        slip = slip_in(path[-1], random.Random('.'.join(map(str, path))))
        part = dict(default_scope='mmdet', **{path[0]: copy.deepcopy(plain[path[0]])})
        changed = Config(part, cfg_text=cfg.text)
        node = changed._cfg_dict
        for key in path[:-1]:
            node = node[key]
        if not slip or slip in node:
            continue
        node[slip] = node.pop(path[-1])
        total += 1
        try:
            finalise_config(changed)
        except ConfigError as error:
            if any(slip in problem.path.split('.') for problem in error.problems):
                continue
        missed.append(('.'.join(map(str, path)), slip))
    assert total > 200
    assert not missed


# What is right


@pytest.mark.parametrize('name', SHIPPED)
def test_shipped_config_is_fine_and_finalised_once(name):
    once = finalise_config(config(name))
    twice = finalise_config(copy.deepcopy(once))
    assert twice.to_dict() == once.to_dict()
    again = finalise_config(Config.fromstring(once.pretty_text, '.py'))
    assert again.to_dict() == once.to_dict()


@pytest.mark.parametrize(
    'path',
    [
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
        'mask_rcnn/mask-rcnn_r50-caffe-c4_1x_coco.py',
        'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
        'htc/htc_r50_fpn_1x_coco.py',
        'point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py',
        'ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py',
        'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
        'retinanet/retinanet_r50_fpn_1x_coco.py',
        'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
        'atss/atss_r50_fpn_1x_coco.py',
        'yolox/yolox_s_8xb8-300e_coco.py',
        'rtmdet/rtmdet_s_8xb32-300e_coco.py',
        'solov2/solov2_r50_fpn_1x_coco.py',
        'detr/detr_r50_8xb2-150e_coco.py',
        'dino/dino-4scale_r50_8xb2-12e_coco.py',
        'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
        'mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco-panoptic.py',
        'maskformer/maskformer_r50_ms-16xb1-75e_coco.py',
        'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py',
        'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    ],
)
def test_config_of_mmdet_passes(path):
    cfg = Config.fromfile(UPSTREAM / path)
    before = cfg.model.to_dict()
    assert finalise_config(cfg).model.to_dict() == before


def test_own_hook_with_kwargs_of_its_base():
    class Base:
        def __init__(self, interval=1):
            pass

    class MyHook(Base):
        def __init__(self, colour, **kwargs):
            super().__init__(**kwargs)

    HOOKS.register_module(module=MyHook, force=True)
    cfg = config(custom_hooks=[dict(type='MyHook', colour=1, interval=2, priority='LOW')])
    assert finalise_config(cfg).custom_hooks[0].interval == 2
    cfg.custom_hooks[0].update(color=2)
    assert 'Did you mean custom_hooks.0.colour?' in refused(cfg)['custom_hooks.0.color']
