"""Segmentors of MMSegmentation as detectors: what is learnt, what is predicted, what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.models import EncoderDecoder
from test_monai_unet import sample, square

import swin_ext.registration  # noqa: F401
from swin_ext.config import finalise_config
from swin_ext.engine.errors import SettingError
from swin_ext.engine.hooks import class_check_hook
from swin_ext.experiments.mmseg_pixel_classifier import MmsegPixelClassifier
from swin_ext.utils.optional import MissingPackageError

CONFIG = Path(__file__).parents[2] / 'configs/upernet/upernet_swin-nano_instances-cmr.py'
BACKBONE = dict(
    type='SwinBackbone',
    arch=dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    drop_path_rate=0.0,
)
COMMON = dict(channels=8, dropout_ratio=0.0, norm_cfg=dict(type='BN'))
HEAD = dict(
    COMMON,
    type='mmseg.UPerHead',
    in_channels=[8, 16, 32, 64],
    in_index=[0, 1, 2, 3],
    align_corners=False,
)
AUXILIARY = dict(
    COMMON, type='mmseg.FCNHead', in_channels=32, in_index=2, num_convs=1, align_corners=False
)


def classifier(num_classes=2, **more) -> MmsegPixelClassifier:
    torch.manual_seed(0)
    arguments = dict(backbone=BACKBONE, decode_head=HEAD, num_classes=num_classes)
    model = MmsegPixelClassifier(**{**arguments, **more})
    for parameter in model.parameters():  # that of the classes begins close to 0
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model


def authors(model: MmsegPixelClassifier) -> EncoderDecoder:
    """MMSegmentation's model for 3 classes, the background among them, with the same weights."""
    init_default_scope('mmseg')
    heads = dict(
        decode_head=dict(HEAD, num_classes=3), auxiliary_head=dict(AUXILIARY, num_classes=3)
    )
    theirs = EncoderDecoder(backbone=BACKBONE, **heads).eval()
    theirs.load_state_dict(model.segmentor.state_dict())
    return theirs


def of_mean_0_and_sd_1(images: torch.Tensor) -> torch.Tensor:
    array = images.numpy().astype(np.float64)
    mean, sd = (f(array, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    return torch.tensor((array - mean) / sd, dtype=torch.float32)


def test_logits_are_those_of_mmseg_in_the_size_of_the_image():
    model = classifier(auxiliary_head=AUXILIARY).eval()
    images = 50 + 20 * torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        found = model(images, [])
        expected = authors(model).encode_decode(
            of_mean_0_and_sd_1(images), [dict(img_shape=(64, 96))] * 2
        )
    assert found.shape == (2, 3, 64, 96) and found.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def dice_and_cross_entropy(logits: torch.Tensor, truth: np.ndarray) -> float:
    """By the definitions: soft Dice of each class and image, log-likelihood of each pixel."""
    probabilities = logits.double().softmax(1).numpy()
    truth = (truth[:, None] == np.arange(3)[:, None, None]).astype(float)
    overlap = (probabilities * truth).sum((2, 3))
    dice = (2 * overlap + 1e-5) / (probabilities.sum((2, 3)) + truth.sum((2, 3)) + 1e-5)
    return 1 - dice.mean() - (truth * np.log(probabilities)).sum(1).mean()


@pytest.mark.parametrize('weight', [0, 0.4])
def test_the_loss_is_that_of_the_head_and_four_tenths_of_the_auxiliary_one(weight):
    model = classifier(auxiliary_head=AUXILIARY).eval()
    images = torch.rand(2, 3, 32, 32)
    mask = square((32, 32), 4, 4, 9)
    samples = [sample(masks=[mask], labels=[label]) for label in (0, 1)]
    truth = np.stack([mask * 1, mask * 2])
    theirs = authors(model)
    with torch.no_grad():
        maps = theirs.extract_feat(of_mean_0_and_sd_1(images))
        outputs = [
            torch.nn.functional.interpolate(head(maps), (32, 32), mode='bilinear')
            for head in (theirs.decode_head, theirs.auxiliary_head)
        ]
        if not weight:
            del model.segmentor.auxiliary_head
        found = model(images, samples, 'loss')['loss'].item()
    of_head, of_auxiliary = (dice_and_cross_entropy(logits, truth) for logits in outputs)
    assert abs(of_head - of_auxiliary) > 1e-3
    assert found == pytest.approx(of_head + weight * of_auxiliary, rel=1e-4)


def test_it_learns_a_square_and_predicts_it_in_the_original_size():
    """Of 64 px, resized from 48 x 60 with padding on the right."""
    torch.manual_seed(0)
    model = MmsegPixelClassifier(BACKBONE, HEAD, 2, AUXILIARY)
    mask = square((64, 64), 16, 20, 24)
    images = torch.rand(2, 3, 64, 64) + 3 * torch.tensor(mask)
    samples = [sample(size=(64, 64), masks=[mask], labels=[1]) for _ in images]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(images, samples, 'loss')['loss'].backward()
        optimizer.step()
    for each in samples:
        each.set_metainfo(dict(img_shape=(64, 56), ori_shape=(128, 112)))
    with torch.no_grad():
        predicted = model.eval()(images, samples, 'predict')
    expected = square((128, 112), 32, 40, 48)
    for found in (each.pred_instances for each in predicted):
        assert found.labels.tolist() == [1] and found.masks.shape == (1, 128, 112)
        overlap = (found.masks[0].numpy() & expected).sum()
        assert 2 * overlap / (found.masks.sum().item() + expected.sum()) > 0.95
        assert found.scores.item() > 0.8


def test_one_image_cannot_be_normalised():
    with pytest.raises(SettingError, match='with one image.*batch_size to 2 or more'):
        classifier()(torch.rand(1, 3, 64, 64), [sample(size=(64, 64))], 'loss')


@pytest.mark.parametrize('num_classes', [1, 5])
def test_num_classes_reaches_the_heads(num_classes, monkeypatch):
    """Behind the background, and the class check counts without it."""
    cfg = Config.fromfile(CONFIG)
    cfg.num_classes = num_classes
    init_default_scope('mmdet')
    model = MODELS.build(dict(finalise_config(cfg).model, data_preprocessor=None)).eval()
    assert model.num_classes == num_classes
    assert model.segmentor.auxiliary_head.out_channels == num_classes + 1
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64), []).shape == (1, num_classes + 1, 64, 64)
    classes = [f'class {number}' for number in range(num_classes)]
    monkeypatch.setattr(class_check_hook, 'class_lists', lambda _: dict(train=classes))
    check = class_check_hook.ClassCheckHook().before_run
    check(SimpleNamespace(model=model))
    classes.append('background')
    message = rf'\(MmsegPixelClassifier\) has num_classes={num_classes}, but the train data set has'
    with pytest.raises(class_check_hook.ClassListError, match=message):
        check(SimpleNamespace(model=model))


def test_the_config_is_the_small_detector_with_another_head():
    """Its backbone and its AdamW; data and schedule are those of the U-Nets."""
    cfg = Config.fromfile(CONFIG)
    detector = Config.fromfile(CONFIG.parents[1] / 'mask_rcnn_swin-nano_cmr.py')
    unet = Config.fromfile(CONFIG.parents[1] / 'unet/unet_monai-basic_cmr.py')
    assert cfg.model.backbone == detector.model.backbone
    assert cfg.optim_wrapper == detector.optim_wrapper
    loader = cfg.train_dataloader.to_dict()
    assert loader.pop('drop_last') and loader == unet.train_dataloader
    keys = ('image_scale', 'param_scheduler', 'train_cfg', 'load_from')
    assert all(cfg[key] == unet[key] for key in keys)


def test_logits_of_the_config_begin_apart():
    """Those close to 0 leave all pixels background for hundreds of iterations."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(dict(finalise_config(Config.fromfile(CONFIG)).model))
    model.init_weights()
    for head in (model.segmentor.decode_head, model.segmentor.auxiliary_head):
        assert head.conv_seg.weight.std().item() == pytest.approx(0.1, rel=0.2)
        assert not head.conv_seg.bias.any()


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(decode_head=dict(HEAD, num_classes=2)), r'decode_head\.num_classes is not used'),
        (
            dict(auxiliary_head=dict(AUXILIARY, loss_decode=dict(type='DiceLoss'))),
            r'auxiliary_head\.loss_decode is not used',
        ),
        (dict(decode_head=dict(HEAD, type='mmseg.MagicHead')), 'cannot be built: .*MagicHead'),
        (dict(decode_head=dict(HEAD, depth=3)), "cannot be built: .*'depth'"),
        (dict(decode_head=dict(HEAD, in_channels=[8, 16])), 'cannot be built'),
    ],
)
def test_heads_that_there_are_not(arguments, message):
    with pytest.raises(SettingError, match=f'(?s)MmsegPixelClassifier: .*{message}'):
        classifier(**arguments)


def test_without_mmsegmentation(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmseg.models', None)
    with pytest.raises(
        MissingPackageError,
        match='MmsegPixelClassifier needs .*: pip install mmsegmentation ftfy regex$',
    ):
        classifier()
