"""A detector with channels-last maps computes what it did."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

import swin_ext.registration  # noqa: F401
from swin_ext.engine import SwinExtRunner
from swin_ext.engine.checkpoint_saving import collect_checkpoint
from swin_ext.models import channels_last
from swin_ext.models.channels_last import ChannelsLastError, use_channels_last
from toy_mask_rcnn import Recording, Slices, fixed_sampling, model_config, train

DEVICES = [
    'cpu',
    pytest.param(
        'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
    ),
]
PIXEL = dict(
    roi_head__type='PixelMaskRoIHead',
    roi_head__mask_roi_extractor__roi_layer__output_size=28,
    roi_head__mask_roi_extractor__roi_layer__sampling_ratio=1,
)


def two_of(device, **changes):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(model_config(**changes))
    model.init_weights()
    other = copy.deepcopy(model)
    use_channels_last(other)
    return model.to(device), other.to(device)


def batch(model):
    samples = [Slices()[i] for i in (0, 1)]
    data = dict(
        inputs=[sample['inputs'] for sample in samples],
        data_samples=[sample['data_samples'] for sample in samples],
    )
    return model.data_preprocessor(data, training=True)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('changes', [{}, PIXEL], ids=['masks of boxes', 'masks of pixels'])
def test_losses_gradients_and_results_are_the_same(device, changes):
    found = []
    for model in two_of(device, **changes):
        model.train()
        torch.manual_seed(0)
        with fixed_sampling():
            losses = model(**batch(model), mode='loss')
        loss, named = model.parse_losses(losses)
        loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        model.eval()
        with torch.no_grad():
            maps = model.extract_feat(batch(model)['inputs'])
            instances = model(**batch(model), mode='predict')[0].pred_instances
        found.append((named, gradients, maps, instances.bboxes, instances.masks))
    torch.testing.assert_close(found[1][:4], found[0][:4], rtol=1e-3, atol=1e-4)
    assert (found[1][4] == found[0][4]).float().mean() > 0.999
    plain, own = (each[2][0] for each in found)
    assert plain.is_contiguous() and own.is_contiguous(memory_format=torch.channels_last)
    assert not own.is_contiguous()


def test_maps_are_copied_once_for_all_heads_and_the_backbones_not_at_all(monkeypatch):
    _, model = two_of('cpu')
    use_channels_last(model)  # again
    seen, copied = [], []
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.roi_layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    contiguous = channels_last._contiguous
    monkeypatch.setattr(
        channels_last,
        '_contiguous',
        lambda x: copied.append(hasattr(x, '_contiguous_copy')) or contiguous(x),
    )
    model.train()
    model(**batch(model), mode='loss')
    assert len(seen) == 2 and seen[0] is seen[1] and seen[0].is_contiguous()
    assert sorted(copied) == [False] * 4 + [True] * 4
    maps = model.backbone(torch.zeros(1, 3, 64, 64))
    assert all(x.permute(0, 2, 3, 1).is_contiguous() for x in maps)


def test_a_run_trains_the_same_and_its_checkpoint_is_contiguous(tmp_path, monkeypatch):
    weights = two_of('cpu')[0].state_dict()  # to draw into another order of memory gives others
    monkeypatch.setattr(
        SwinExtRunner, '_init_model_weights', lambda self: self.model.load_state_dict(weights)
    )
    saved = []
    monkeypatch.setattr(
        Recording,
        'after_train',
        lambda self, runner: saved.append(collect_checkpoint(runner, '')['state_dict']),
    )
    options = dict(
        batch_size=2, steps=3, optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3, fused=True))
    )
    plain = train(tmp_path / 'plain', model_config(), **options)
    own = train(tmp_path / 'own', model_config(), channels_last=True, **options)
    for expected, actual in zip(plain['losses'], own['losses']):
        assert actual == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert not own['parameters'][-1]['neck.fpn_convs.0.conv.weight'].is_contiguous()
    assert all(tensor.is_contiguous() for tensor in saved[1].values())
    torch.testing.assert_close(saved[1], saved[0], rtol=0, atol=2e-3)


def test_a_model_without_such_parts_is_refused():
    with pytest.raises(ChannelsLastError, match='Linear has none of neck, rpn_head'):
        use_channels_last(torch.nn.Linear(1, 1))
