"""U-Nets of MONAI as detectors: what is learnt, and what is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

import swin_ext.registration  # noqa: F401
from swin_ext.engine.errors import SettingError
from swin_ext.experiments.monai_unet import MonaiUNet
from swin_ext.experiments.pixel_classifier import class_instances, label_maps, standardise

CONFIGS = Path(__file__).parents[2] / 'configs' / 'unet'
SMALL = dict(features=(4, 4, 4, 8, 8, 4))


def sample(size=(32, 32), ori_shape=(40, 40), masks=(), labels=()):
    instances = InstanceData(
        masks=BitmapMasks([np.asarray(mask, np.uint8) for mask in masks], *size),
        labels=torch.tensor(labels, dtype=torch.long),
        bboxes=torch.zeros(len(labels), 4),
    )
    return DetDataSample(
        metainfo=dict(img_shape=size, ori_shape=ori_shape, img_id=1), gt_instances=instances
    )


def square(size, y, x, side):
    mask = np.zeros(size, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_label_maps_of_instances():
    masks = [square((32, 32), 2, 3, 5), square((32, 32), 20, 20, 4), square((32, 32), 5, 6, 4)]
    one, empty = label_maps([sample(masks=masks, labels=[2, 0, 1]), sample()], (32, 32))
    expected = np.zeros((32, 32), int)
    expected[2:7, 3:8], expected[20:24, 20:24], expected[5:9, 6:10] = 3, 1, 2
    assert one.shape == (1, 32, 32) and one.dtype == torch.long
    assert np.array_equal(one[0].numpy(), expected) and not empty.any()


def test_a_class_is_one_instance():
    labels = np.zeros((10, 12), int)
    labels[1:3, 2:5], labels[7:9, 10:12], labels[5, 5] = 1, 1, 3
    probabilities = torch.full((4, 10, 12), 0.1)
    confidence = torch.linspace(0.5, 0.9, 120).reshape(10, 12)
    probabilities.scatter_(0, torch.tensor(labels)[None], confidence[None])
    found = class_instances(probabilities)
    assert found.labels.tolist() == [0, 2]
    assert np.array_equal(found.masks.numpy(), [labels == 1, labels == 3])
    assert found.scores.tolist() == pytest.approx(
        [confidence[labels == label].mean().item() for label in (1, 3)]
    )
    assert found.bboxes.tolist() == [[2, 1, 12, 9], [5, 5, 6, 6]]


def test_nothing_but_background_is_no_instance():
    probabilities = torch.zeros(3, 6, 7)
    probabilities[0] = 1
    found = class_instances(probabilities)
    assert len(found) == 0 and found.masks.shape == (0, 6, 7) and found.bboxes.shape == (0, 4)


def test_images_are_standardised_each():
    images = torch.rand(3, 3, 8, 8) * torch.tensor([1.0, 50, 0])[:, None, None, None] + 7
    found = standardise(images).numpy()
    assert found[:2].mean((1, 2, 3)) == pytest.approx(0, abs=1e-5)
    assert found[:2].std((1, 2, 3)) == pytest.approx(1, abs=1e-4)
    assert not found[2].any()  # without contrast


def test_the_loss_is_dice_and_cross_entropy():
    """Against the definitions: soft Dice of each class and image, log-likelihood of each pixel."""
    torch.manual_seed(0)
    model = MonaiUNet('BasicUNet', 2, SMALL)
    images = torch.rand(2, 3, 32, 32)
    samples = [sample(masks=[square((32, 32), 4, 4, 9)], labels=[label]) for label in (0, 1)]
    loss = model(images, samples, 'loss')['loss'].item()
    probabilities = model(images, samples).softmax(1).detach().double()
    truth = torch.nn.functional.one_hot(label_maps(samples, (32, 32))[:, 0], 3).permute(0, 3, 1, 2)
    overlap = (probabilities * truth).sum((2, 3))
    dice = (2 * overlap + 1e-5) / (probabilities.sum((2, 3)) + truth.sum((2, 3)) + 1e-5)
    cross_entropy = -(truth * probabilities.log()).sum(1).mean()
    assert loss == pytest.approx((1 - dice.mean() + cross_entropy).item(), rel=1e-4)


def test_deep_supervision_weighs_outputs_by_halves():
    torch.manual_seed(0)
    cfg = Config.fromfile(CONFIGS / 'unet_monai-dynunet_cmr.py')
    model = MODELS.build(dict(cfg.model, data_preprocessor=None)).train()
    images, samples = (
        torch.rand(1, 3, 64, 64),
        [sample(size=(64, 64), masks=[square((64, 64), 4, 4, 9)], labels=[1])],
    )
    outputs = model.network(standardise(images)).unbind(1)
    assert len(outputs) == 3
    losses = [model.loss(output, label_maps(samples, (64, 64))).item() for output in outputs]
    expected = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    assert model(images, samples, 'loss')['loss'].item() == pytest.approx(expected, rel=1e-5)
    assert model.eval()(images, samples).shape == (1, 4, 64, 64)


def test_it_learns_a_square_and_predicts_it_in_the_original_size():
    """Of 32 px, resized from 24 x 30 with padding on the right."""
    torch.manual_seed(0)
    model = MonaiUNet('BasicUNet', 2, SMALL)
    mask = square((32, 32), 8, 10, 12)
    images = torch.rand(1, 3, 32, 32) + 3 * torch.tensor(mask)
    samples = [sample(size=(32, 32), masks=[mask], labels=[1])]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(images, samples, 'loss')['loss'].backward()
        optimizer.step()
    samples[0].set_metainfo(dict(img_shape=(32, 28), ori_shape=(64, 56)))
    with torch.no_grad():
        (predicted,) = model.eval()(images, samples, 'predict')
    found = predicted.pred_instances
    assert found.labels.tolist() == [1] and found.masks.shape == (1, 64, 56)
    expected = square((64, 56), 16, 20, 24)
    overlap = (found.masks[0].numpy() & expected).sum()
    assert 2 * overlap / (found.masks.sum().item() + expected.sum()) > 0.95
    assert found.scores.item() > 0.8


@pytest.mark.parametrize(
    'name, parameters', [('unet_monai-basic_cmr', 496_244), ('unet_monai-dynunet_cmr', 2_090_748)]
)
def test_size_of_the_baselines(name, parameters):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    model = MODELS.build(dict(cfg.model, data_preprocessor=None))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert cfg.optim_wrapper.optimizer == dict(type='Adam', lr=1e-3)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(network='MagicNet', num_classes=1), "monai.networks.nets has no 'MagicNet'"),
        (dict(network='__name__', num_classes=1), "has no '__name__'"),
        (dict(network='BasicUNet', num_classes=1, network_args=dict(depth=3)), 'does not take'),
        (dict(network='BasicUNet', num_classes=1, network_args=dict(features=(1,))), 'not take'),
    ],
)
def test_networks_that_there_are_not(arguments, message):
    with pytest.raises(SettingError, match=message):
        MonaiUNet(**arguments)
