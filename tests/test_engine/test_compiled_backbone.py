"""A compiled backbone trains the same under the same names, and is compiled once for each size."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from swin_ext.engine import compiled_backbone
from swin_ext.engine.compiled_backbone import compile_backbone, number_of_sizes
from swin_ext.engine.errors import SettingError
from swin_ext.models import SwinBackbone
from swin_ext.models.shape_buckets import BatchPadToBuckets
from toy_noisy_training import make_runner, train

LOGGER = logging.getLogger('test')
ARCH = dict(embed_dims=8, depths=(1, 1), num_heads=(1, 1))
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@pytest.fixture(autouse=True)
def new_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Detector(nn.Module):
    def __init__(self, sizes=None):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = SwinBackbone(arch=ARCH, out_indices=(0, 1), drop_path_rate=0.0)
        self.data_preprocessor = nn.Module()
        if sizes:
            self.data_preprocessor.batch_augments = nn.ModuleList([BatchPadToBuckets(sizes)])


def test_programs_are_as_many_as_buckets_and_evaluation_has_none():
    model, compiled = Detector([(32, 48), (48, 32), (48, 48)]), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    plain = copy.deepcopy(model.backbone)
    compile_backbone(model, dict(backend=backend), LOGGER)
    (pad,) = model.data_preprocessor.batch_augments
    generator, shapes = torch.Generator().manual_seed(0), set()
    for _ in range(12):
        h, w = torch.randint(8, 49, (2,), generator=generator).tolist()
        images, _ = pad(torch.rand(1, 3, h, w, generator=generator), [])
        shapes.add(images.shape)
        for own, expected in zip(model.backbone(images), plain(images)):
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        model.backbone.eval()
        model.backbone(torch.rand(1, 3, h, w))  # of any size
        model.backbone.train()
        with torch.no_grad():
            model.backbone(torch.rand(1, 3, h, w))
    assert len(compiled) == len(shapes) == number_of_sizes(model) == 3


def test_names_and_copies_are_as_before():
    model = Detector()
    names = list(model.state_dict())
    compile_backbone(model, dict(backend='eager'), LOGGER)
    compile_backbone(model, dict(backend='eager'), LOGGER)  # again
    assert type(model.backbone).__mro__[1] is SwinBackbone
    assert list(model.state_dict()) == names
    average = copy.deepcopy(model)
    for parameter in average.parameters():
        nn.init.zeros_(parameter)
    images = torch.rand(1, 3, 32, 32)
    # A copy computes with its own weights, compiled or not.
    for own, copied in zip(model.backbone(images), average.backbone(images)):
        assert own.abs().max() > 0.1 and not copied.any()


def test_frozen_stages_change_what_is_learned():
    model = Detector()
    compile_backbone(model, dict(backend='eager'), LOGGER)
    images = torch.rand(1, 3, 32, 32)
    for frozen in (1, -1):
        model.backbone.set_frozen_stages(frozen)
        model.zero_grad(set_to_none=True)
        sum(x.mean() for x in model.backbone(images)).backward()
        got = {n for n, p in model.backbone.named_parameters() if p.grad is not None}
        assert got == {n for n, p in model.backbone.named_parameters() if p.requires_grad}
        assert ('patch_embed.projection.weight' in got) == (frozen < 0)


FREEZING = [
    dict(
        type='BackboneFreezeHook',
        schedule=[dict(at=0, patterns=['backbone.0.*']), dict(at=6, patterns=[])],
    )
]


def test_a_compiled_run_resumes_as_the_plain_one_goes_on(tmp_path):
    """With dropout, batch norm, and a part that is frozen until iteration 6."""
    setting = dict(compile_backbone=dict(backend='eager'))
    options = dict(custom_hooks=FREEZING)
    _, plain = train(tmp_path / 'plain', **copy.deepcopy(options))
    whole, expected = train(tmp_path / 'whole', cfg=setting, **copy.deepcopy(options))
    assert hasattr(type(whole.model.backbone), 'compiled_with')
    assert list(expected.losses.values()) == pytest.approx(list(plain.losses.values()), rel=1e-4)
    saved = torch.load(tmp_path / 'whole/iter_8.pth', weights_only=False)['state_dict']
    assert list(saved) == list(make_runner(tmp_path / 'other').model.state_dict())
    for stop in (4, 8):  # before and after the part is thawed; by a run that does not compile
        for cfg in (setting, {}):
            _, resumed = train(
                tmp_path / f'{stop}{len(cfg)}',
                tmp_path / f'whole/iter_{stop}.pth',
                cfg=cfg,
                **copy.deepcopy(options),
            )
            losses = {i: loss for i, loss in expected.losses.items() if i > stop}
            assert resumed.losses == pytest.approx(losses, rel=1e-4)


def test_on_a_cpu_it_is_left_out_with_the_reason(caplog):
    model = Detector()
    with caplog.at_level(logging.WARNING):
        compile_backbone(model, True, LOGGER)
    assert type(model.backbone) is SwinBackbone
    assert 'is not compiled. On CPUs' in caplog.text


def test_without_buckets_it_warns(caplog):
    with caplog.at_level(logging.WARNING):
        compile_backbone(Detector(), dict(backend='eager'), LOGGER)
    assert 'BatchPadToBuckets' in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        compile_backbone(Detector([(32, 32)]), dict(backend='eager'), LOGGER)
    assert not caplog.text


def test_as_many_programs_may_be_made_as_there_are_buckets(monkeypatch):
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    before = getattr(config, name)
    try:
        compiled_backbone.allow_recompilations(before + 3)
        assert getattr(config, name) == before + 3
        compiled_backbone.allow_recompilations(1)
        assert getattr(config, name) == before + 3
    finally:
        setattr(config, name, before)


@pytest.mark.parametrize(
    'model, setting, message',
    [
        (Detector(), dict(dynamic=True), r'compile_backbone has dynamic, .*takes backend, mode'),
        (nn.Linear(1, 1), True, 'Linear has no backbone'),
    ],
)
def test_wrong_settings_are_refused(model, setting, message):
    with pytest.raises(SettingError, match=message):
        compile_backbone(model, setting, LOGGER)


@needs_cuda
@pytest.mark.parametrize('setting', [True, dict(mode='reduce-overhead')])
def test_on_a_gpu_it_computes_the_same(setting):
    model = Detector([(32, 48)]).cuda()
    plain = copy.deepcopy(model.backbone)
    compile_backbone(model, setting, LOGGER)
    for seed in range(4):
        torch.manual_seed(seed)
        images = torch.rand(2, 3, 32, 48, device='cuda')
        found = []
        for backbone in (plain, model.backbone):
            backbone.zero_grad(set_to_none=True)
            maps = backbone(images)
            sum(x.square().mean() for x in maps).backward()
            gradients = [p.grad.clone() for p in backbone.parameters()]
            found.append(([x.detach().clone() for x in maps], gradients))
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4)
