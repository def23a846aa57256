"""Two processes of b images compute what one of 2 b does, as far as the config says so."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import swin_ext  # noqa: F401 -- registers
from swin_ext.config import finalise_config
from swin_ext.engine.ddp_options import CompressingDistributedDataParallel
from swin_ext.engine.errors import SettingError
from toy_detector import make_runner
from two_ranks import run_on_two_ranks

CONFIG = Path(__file__).parents[2] / 'configs/mask_rcnn_swin-nano_cmr.py'
SIDE = 64
INSTANCES = (1, 2, 3, 4)  # of each image, so that ranks differ
NUM_STEPS = 5
SGD = dict(type='SGD', lr=0.01, weight_decay=0.1)
GROUPED = dict(
    constructor='GroupedOptimWrapperConstructor', paramwise_cfg=dict(lr_mult=dict(backbone=0.1))
)
OPTIM_WRAPPERS = {
    'plain': dict(optimizer=SGD),
    'autocast': dict(type='AutocastOptimWrapper', dtype='bfloat16', optimizer=SGD),
    'accumulating': dict(optimizer=SGD, accumulative_counts=4),
    'grouped': dict(optimizer=SGD, **GROUPED),
}
WRAPPERS = {
    'plain': dict(),
    'static graph': dict(static_graph=True),
    'bucket view': dict(gradient_as_bucket_view=True),
    'bfloat16': dict(gradient_dtype='bfloat16'),
}


def make_model(sync=False):
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(dict(num_classes=3, sync_avg_factor=sync))
    cfg.model.backbone.arch = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    # Few enough for each image to have as many.
    cfg.model.train_cfg.rcnn.sampler.update(num=32, pos_fraction=0.5)
    finalise_config(cfg)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.train()


def make_batch(images):
    inputs, samples = [], []
    for i in images:
        generator = torch.Generator().manual_seed(i)
        inputs.append(torch.randint(0, 255, (3, SIDE, SIDE), generator=generator).byte())
        corners = torch.rand(INSTANCES[i], 2, generator=generator) * SIDE / 2
        sides = 20 + torch.rand(INSTANCES[i], 2, generator=generator) * 12  # some anchors fit
        boxes = torch.cat([corners, corners + sides], 1)
        masks = torch.zeros(len(boxes), SIDE, SIDE, dtype=torch.uint8)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist()):
            mask[y0:y1, x0:x1] = 1
        sample = DetDataSample(metainfo=dict(img_shape=(SIDE, SIDE), ori_shape=(SIDE, SIDE)))
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0), pad_shape=(SIDE, SIDE), img_id=i))
        sample.gt_instances = InstanceData(
            bboxes=boxes,
            labels=torch.arange(len(boxes)) % 3,
            masks=BitmapMasks(masks.numpy(), SIDE, SIDE),
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def in_order(n, *args, **kwargs):
    return torch.arange(n)


def losses_and_gradients(model, wrapped, batch):
    """Losses by name, the number of positive regions, and gradients by name of the parameter."""
    positives = []
    head = model.roi_head.mask_head
    handle = head.register_forward_hook(
        lambda module, inputs, output: positives.append(len(output))
    )
    model.zero_grad()
    found = wrapped(**model.data_preprocessor(batch, True), mode='loss')
    losses = {
        name: sum(value) if isinstance(value, list) else value
        for name, value in found.items()
        if 'loss' in name
    }
    total = sum(losses.values())
    total.backward()
    handle.remove()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {n: v.item() for n, v in losses.items()}, positives[0], gradients


def without_mask(model):
    """The mask head's loss counts for nothing."""
    model.roi_head.mask_head.loss_mask.loss_weight = 0.0
    return model


def on_a_rank(rank, folder):
    torch.randperm = in_order
    batch = make_batch([2 * rank, 2 * rank + 1])
    found = {}
    for name, change, sync in (
        ('plain', lambda model: model, False),
        ('without mask', without_mask, False),
        ('synced', lambda model: model, True),
    ):
        model = change(make_model(sync))
        found[name] = losses_and_gradients(model, MMDistributedDataParallel(model), batch)

    for name, options in WRAPPERS.items():
        model = make_model()
        wrapped = CompressingDistributedDataParallel(model, **options)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01))
        sums = []
        for _ in range(NUM_STEPS):
            wrapped.train_step(batch, wrapper)
            sums.append({n: p.detach().clone() for n, p in model.named_parameters()})
        found[f'steps, {name}'] = sums

    model = make_model(sync=True)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 2)
    wrapped = CompressingDistributedDataParallel(model)
    for image in (2 * rank, 2 * rank + 1):  # in two halves
        wrapped.train_step(make_batch([image]), wrapper)
    found['accumulated'] = {n: p.detach().clone() for n, p in model.named_parameters()}

    for name, optim_wrapper in OPTIM_WRAPPERS.items():
        runner = make_runner(
            folder / f'{name} {rank}',
            batch_size=4,
            optim_wrapper=copy.deepcopy(optim_wrapper),
            auto_scale_lr=dict(enable=True, base_batch_size=2),
        )
        wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        runner.scale_lr(wrapper, runner.auto_scale_lr)
        found[f'lr, {name}'] = sorted({group['lr'] for group in wrapper.optimizer.param_groups})
    return found


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_two_ranks(on_a_rank, tmp_path_factory.mktemp('ranks'))


@pytest.fixture(autouse=True)
def sample_in_order(monkeypatch):
    monkeypatch.setattr(torch, 'randperm', in_order)


@pytest.fixture
def whole():
    """What one process finds that has all images."""

    def find(change=lambda model: model):
        model = change(make_model())
        return losses_and_gradients(model, model, make_batch(range(4)))

    return find


def close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    scale = max(float(g.abs().max()) for g in expected.values())
    for name, gradient in expected.items():
        difference = float((found[name] - gradient).abs().max())
        assert difference <= tolerance * max(1.0, scale), (name, difference)


def test_ranks_have_different_numbers_of_positives(ranks):
    first, second = (rank['plain'][1] for rank in ranks)
    assert 0 < first != second > 0


def test_losses_of_two_ranks_are_those_of_one(ranks, whole):
    expected, positives, _ = whole()
    counts = [rank['plain'][1] for rank in ranks]
    assert sum(counts) == positives
    for name, value in expected.items():
        values = [rank['plain'][0][name] for rank in ranks]
        weights = counts if name == 'loss_mask' else (1, 1)
        mean = sum(w * v for w, v in zip(weights, values)) / sum(weights)
        assert mean == pytest.approx(value, abs=1e-6), name


def test_gradients_without_mask_are_those_of_one(ranks, whole):
    expected = whole(without_mask)[2]
    for rank in ranks:
        close(rank['without mask'][2], expected, 1e-5)


def test_gradients_with_mask_are_not(ranks, whole):
    """So that the test of synchronised heads could fail."""
    with pytest.raises(AssertionError):
        close(ranks[0]['plain'][2], whole()[2], 1e-5)


def test_synchronised_heads_give_losses_and_gradients_of_one(ranks, whole):
    losses, _, gradients = whole()
    for name, value in losses.items():
        mean = sum(rank['synced'][0][name] for rank in ranks) / 2
        assert mean == pytest.approx(value, abs=1e-6), name
    for rank in ranks:
        close(rank['synced'][2], gradients, 1e-5)


@pytest.mark.parametrize('name', WRAPPERS)
def test_parameters_are_equal_on_both_ranks_after_each_step(ranks, name):
    first, second = (rank[f'steps, {name}'] for rank in ranks)
    for mine, other in zip(first, second):
        for key in mine:
            assert torch.equal(mine[key], other[key]), key
    moved = [k for k in first[0] if not torch.equal(first[0][k], first[-1][k])]
    assert len(moved) > 100


@pytest.mark.parametrize('name', [name for name in WRAPPERS if name != 'plain'])
def test_options_compute_the_same(ranks, name):
    """bfloat16 rounds gradients to 2**-9 of their size."""
    start = dict(make_model().named_parameters())
    for plain, other in zip(ranks[0]['steps, plain'][:1], ranks[0][f'steps, {name}'][:1]):
        for key, value in plain.items():
            step = (value - start[key]).abs()
            tolerance = 2**-7 * step.max() if name == 'bfloat16' else 0
            # Weights of 1 have steps of 2**-23.
            assert (other[key] - value).abs().max() <= tolerance + 2**-22, key


def test_accumulated_gradients_are_the_mean_of_both_halves(ranks):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for images in ((0, 2), (1, 3)):  # those that the ranks have at the same time
        gradients = losses_and_gradients(model, model, make_batch(images))[2]
        for name, parameter in model.named_parameters():
            if name in gradients:
                kept = getattr(parameter, 'kept', 0)
                parameter.kept = kept + gradients[name] / 2
    for parameter in model.parameters():
        parameter.grad = getattr(parameter, 'kept', None)
    optimizer.step()
    for rank in ranks:
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(rank['accumulated'][name], parameter, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('name', OPTIM_WRAPPERS)
def test_learning_rates_scale_with_the_images_of_all_ranks(ranks, name):
    """4 images on 2 ranks are four times the 2 that the rate is for."""
    expected = [0.004, 0.04] if name == 'grouped' else [0.04]
    for rank in ranks:
        assert rank[f'lr, {name}'] == pytest.approx(expected)


def test_unknown_type_of_gradients():
    with pytest.raises(SettingError, match="gradient_dtype='int8' must be one of bfloat16"):
        CompressingDistributedDataParallel(torch.nn.Linear(1, 1), gradient_dtype='int8')
