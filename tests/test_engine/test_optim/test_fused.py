"""A fused optimizer updates as the unfused one does, and is one only where PyTorch has it."""

from __future__ import annotations

import copy
import math
import re

import pytest
import torch
from packaging.version import Version
from torch import nn

from swin_ext.engine.hooks import NonFiniteLossHook
from swin_ext.engine.optim import fused
from swin_ext.engine.optim.fused import as_built, heeds_flag, where_served
from swin_ext.engine.optim.update_guard import GuardedOptimWrapper, UpdateGuard
from toy_detector import make_runner
from toy_noisy_training import MAX_ITERS, train
from toy_nonfinite_training import (
    ADAMW,
    make_model_of_bad_gradients,
    train_plainly,
    train_with_bad_gradients,
)
from two_ranks import log_of

DEVICES = [
    'cpu',
    pytest.param(
        'cuda', marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
    ),
]
FUSES_ON_CPU = Version(torch.__version__) >= Version('2.4')
pytestmark = pytest.mark.skipif(not FUSES_ON_CPU, reason='PyTorch fuses on CPUs from 2.4 on')

LAYOUTS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)


def three_layers(device='cpu', dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 3))
    return layers.to(device, dtype)


def updates(model, optimizer, number=6, wrapper_type=GuardedOptimWrapper, **wrapper):
    """Parameters after each of some updates from the same gradients."""
    wrapper = wrapper_type(optimizer, **copy.deepcopy(wrapper))
    wrapper.guards_updates = True
    generator, history = torch.Generator().manual_seed(1), []
    for _ in range(number):
        x = torch.randn(4, 5, generator=generator).to(next(model.parameters()).device)
        wrapper.update_params(model(x).square().mean())
        history.append([p.detach().clone() for p in model.parameters()])
    return history


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize(
    'wrapper', [{}, dict(clip_grad=dict(max_norm=0.1)), dict(accumulative_counts=2)]
)
def test_updates_are_those_of_the_unfused_one(device, wrapper):
    found = []
    for is_fused in (False, True):
        model = three_layers(device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=is_fused)
        found.append(updates(model, optimizer, **wrapper))
    for unfused, own in zip(*found):
        torch.testing.assert_close(own, unfused, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found[1][0][0], found[1][-1][0])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('first, second', [(True, False), (False, True)])
def test_a_state_of_one_goes_on_in_the_other(device, first, second):
    model = three_layers(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=first)
    updates(model, optimizer, 3)
    state = copy.deepcopy(GuardedOptimWrapper(optimizer).state_dict())
    if not second:  # as a run resumes on a GPU: all that the file has goes there
        assert all(values['step'].device.type == device for values in state['state'].values())
    resumed = copy.deepcopy(model)
    other = torch.optim.AdamW(resumed.parameters(), lr=0.5, fused=second)
    GuardedOptimWrapper(other).load_state_dict(state)
    assert [bool(group['fused']) for group in other.param_groups] == [second]
    assert other.param_groups[0]['lr'] == 0.01
    on = {values['step'].device.type for values in other.state.values()}
    assert on == ({device} if second else {'cpu'})
    whole, gone_on = updates(model, optimizer, 3), updates(resumed, other, 3)
    torch.testing.assert_close(gone_on, whole, rtol=1e-5, atol=1e-6)


def test_a_state_is_not_changed_and_one_of_another_model_is_refused():
    model = three_layers()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    updates(model, optimizer, 1)
    state = optimizer.state_dict()
    unfused = torch.optim.AdamW(three_layers().parameters())
    as_built(unfused, state)
    assert state['param_groups'][0]['fused'] is True
    groups = [dict(params=[p]) for p in three_layers().parameters()]
    with pytest.raises(ValueError, match='different number of parameter groups'):
        GuardedOptimWrapper(torch.optim.AdamW(groups)).load_state_dict(state)


@pytest.mark.parametrize('is_fused', [False, True])
@pytest.mark.parametrize(
    'before, after', [('contiguous', 'channels_last'), ('channels_last', 'contiguous')]
)
def test_moments_lie_as_the_parameter_that_they_are_loaded_for(before, after, is_fused):
    """PyTorch's fused kernel would take one number for another."""

    def convolution(layout):
        torch.manual_seed(0)
        return nn.Conv2d(3, 4, 2).to(memory_format=LAYOUTS[layout])

    def step(layer, wrapper, seed):
        x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
        wrapper.update_params(layer(x).square().mean())

    finals = []
    for layout in (before, after):
        layer = convolution(before)
        wrapper = GuardedOptimWrapper(torch.optim.AdamW(layer.parameters(), fused=is_fused))
        for seed in (0, 1):
            step(layer, wrapper, seed)
        resumed = convolution(layout)
        resumed.load_state_dict(layer.state_dict())
        other = GuardedOptimWrapper(torch.optim.AdamW(resumed.parameters(), fused=is_fused))
        other.load_state_dict(wrapper.state_dict())
        for seed in (2, 3):
            step(resumed, other, seed)
        finals.append(resumed.weight)
    assert finals[0].stride() != finals[1].stride()
    torch.testing.assert_close(finals[1], finals[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'first, second', [({}, dict(fused=True)), (dict(fused=True), {})], ids=['to fused', 'from it']
)
def test_a_run_resumes_whichever_it_was(tmp_path, first, second):
    def run(name, checkpoint=None, **how):
        optimizer = dict(type='AdamW', lr=0.05, **how)
        return train(tmp_path / name, checkpoint, optim_wrapper=dict(optimizer=optimizer))

    whole, expected = run('whole', **first)
    resumed, actual = run('resumed', tmp_path / 'whole/iter_5.pth', **second)
    assert bool(resumed.optim_wrapper.param_groups[0]['fused']) == bool(second)
    assert list(actual.losses) == list(range(6, MAX_ITERS + 1))
    for iteration, loss in actual.losses.items():
        assert loss == pytest.approx(expected.losses[iteration], rel=1e-4)


# Where it is served


def test_fused_stays_where_it_is_served(tmp_path):
    runner = make_runner(tmp_path, optim_wrapper=dict(optimizer=dict(ADAMW, fused=True)))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert wrapper.param_groups[0]['fused'] and heeds_flag(wrapper.optimizer)
    assert 'is not fused' not in log_of(runner)


@pytest.mark.parametrize(
    'optimizer, dtype, reason',
    [
        ('RMSprop', torch.float32, "unexpected keyword argument 'fused'"),
        ('AdamW', torch.complex64, 'torch.complex64 on cpu: .*fus'),
    ],
)
def test_what_is_not_served_is_left_out_with_the_reason(optimizer, dtype, reason, monkeypatch):
    told = []
    monkeypatch.setattr(fused, 'print_log', lambda text, logger: told.append(text))
    cfg = dict(type=optimizer, lr=0.1, fused=True)
    served = where_served(cfg, nn.ParameterList([torch.zeros(2, dtype=dtype)]))
    assert served == dict(type=optimizer, lr=0.1) and cfg['fused'] is True
    (text,) = told
    assert re.search(rf'optimizer.fused: {optimizer} is not fused.*{reason}', text)


def test_a_part_of_a_larger_tensor_is_not_served(monkeypatch):
    told = []
    monkeypatch.setattr(fused, 'print_log', lambda text, logger: told.append(text))
    model = nn.ParameterDict(dict(odd=nn.Parameter(torch.zeros(4, 6)[:, ::2])))
    assert where_served(dict(type='AdamW', fused=True), model) == dict(type='AdamW')
    assert told[0].endswith('odd is a part of a larger tensor')


def test_a_pytorch_that_does_not_fuse_on_cpus(tmp_path, monkeypatch):
    """As PyTorch 2.1 to 2.3, which refuse when the optimizer is made."""
    made = torch.optim.AdamW.__init__

    def refuse(self, params, *args, fused=None, **kwargs):
        if fused:
            raise RuntimeError('`fused=True` requires all the params to be on supported devices')
        made(self, params, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, '__init__', refuse)
    runner = make_runner(tmp_path, optim_wrapper=dict(optimizer=dict(ADAMW, fused=True)))
    wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    assert not wrapper.param_groups[0]['fused']
    assert 'requires all the params to be on supported devices' in log_of(runner)


# Gradients that are not finite: what a fused optimizer on CUDA does, which the host learns late


@pytest.fixture
def late(monkeypatch):
    """Also on CPUs."""
    monkeypatch.setattr(UpdateGuard, 'is_late', property(lambda self: heeds_flag(self.optimizer)))


@pytest.mark.parametrize('counts', [1, 2])
def test_the_device_leaves_out_what_is_not_finite(tmp_path, counts, late):
    runner, recorder = train_with_bad_gradients(
        tmp_path,
        dict(ADAMW, fused=True),
        accumulative_counts=counts,
        clip_grad=dict(max_norm=1e6),
    )
    for own, expected in zip(recorder.weights, train_plainly([1, 5], 8, counts)):
        for name, tensor in expected.items():
            torch.testing.assert_close(own[name], tensor, rtol=1e-5, atol=1e-6)
    lines = re.findall(r'The gradients of iteration (\d+) are not finite.*\n(.*)', log_of(runner))
    assert [number for number, _ in lines] == ['2', '6']
    images = ', '.join(f'{100 + i} (images/{i}.png)' for i in range(4, 8))
    assert all(images in line for _, line in lines)
    assert runner.message_hub.get_info('nonfinite_losses') == 2


@pytest.mark.parametrize('last, counted', [(104, 1), (115, 2)])
def test_late_ones_are_counted_in_checkpoints_and_at_the_end(tmp_path, last, counted, late):
    """Of images 100 to 115 in batches of four: iterations 1 and 2, or 2 and 4, the last one."""
    options = dict(
        model=make_model_of_bad_gradients([105, last]),
        max_epochs=1,
        optim_wrapper=dict(optimizer=dict(ADAMW, fused=True)),
    )
    runner = make_runner(tmp_path, hooks=[NonFiniteLossHook()], **options)
    runner.train()
    assert runner.message_hub.get_info('nonfinite_losses') == counted
    for iteration, expected in enumerate([0, 1, 1, counted], 1):
        saved = torch.load(tmp_path / f'iter_{iteration}.pth', weights_only=False)
        info = saved['message_hub']['runtime_info']
        assert info.get('nonfinite_losses', 0) == expected, iteration


def test_a_late_end_names_its_iteration(tmp_path, late):
    model = make_model_of_bad_gradients(range(100, 116))
    before = [p.detach().clone() for p in model.parameters()]
    runner = make_runner(
        tmp_path,
        model=model,
        hooks=[NonFiniteLossHook(max_consecutive=2)],
        optim_wrapper=dict(optimizer=dict(ADAMW, fused=True)),
    )
    with pytest.raises(RuntimeError, match='at iteration 2, whose gradients .* 2 times in a row'):
        runner.train()
    assert (tmp_path / 'nonfinite_loss/iter_3.pth').is_file()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before))


@pytest.mark.parametrize('device', DEVICES)
def test_losses_and_gradients_are_told_apart(device, late):
    parameter = nn.Parameter(torch.ones(2, device=device))
    wrapper = GuardedOptimWrapper(torch.optim.AdamW([parameter], lr=0.1, fused=True))
    wrapper.guards_updates = True
    found = []
    for factor in (1.0, math.nan, 1e38, 1.0, math.inf, 1.0):
        loss = (parameter * factor).sum()
        if factor == 1e38:  # of a finite loss
            loss = (parameter - parameter.detach()).sum() * factor * factor
        wrapper.update_params(loss)
        found.append(wrapper.nonfinite)
    assert found == [None, None, 'loss', 'gradients', None, 'loss']
    assert wrapper.last_iteration() is None
    assert parameter.isfinite().all()
