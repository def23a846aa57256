"""A loss that is NaN for some image ids leaves no trace but in the log."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner

from swin_ext.checkpoint.safe_reading import load_checkpoint_file
from swin_ext.engine.hooks import NonFiniteLossHook
from swin_ext.engine.hooks.nonfinite_loss_hook import NonFiniteLossError
from swin_ext.engine.optim.update_guard import GuardedOptimWrapper, UpdateGuard
from toy_detector import ToyDetector, ToyImages, make_runner
from toy_nonfinite_training import (
    Recorder,
    ScaledGradient,
    assert_same,
    make_model,
    make_model_of_bad_gradients,
    parameters,
    train,
    train_plainly,
    train_with_bad_gradients,
)
from two_ranks import log_of, run_on_two_ranks

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize('factor', [NAN, INF, -INF])
def test_weights_and_optimizer_stay_and_training_goes_on(tmp_path, factor):
    _, recorder = train(tmp_path, {105: factor})
    assert_same(recorder.weights, train_plainly(left_out=[1, 5]))
    for step in (1, 5):
        for name, tensor in recorder.weights[step].items():
            assert torch.equal(tensor, recorder.weights[step - 1][name])
        for own, before in zip(recorder.states[step], recorder.states[step - 1]):
            assert torch.equal(own, before)


@pytest.mark.parametrize(
    'wrapper, left_out',
    [
        (dict(accumulative_counts=2), [1, 5]),  # the last of the two
        (dict(accumulative_counts=4), [3, 7]),  # one amid four
        (dict(accumulative_counts=4, clip_grad=dict(max_norm=1e6)), [3, 7]),
    ],
)
def test_the_update_is_left_out_that_a_batch_is_accumulated_for(tmp_path, wrapper, left_out):
    _, recorder = train(tmp_path, {105: NAN}, wrapper)
    assert_same(recorder.weights, train_plainly(left_out, 8, wrapper['accumulative_counts']))


def test_images_are_logged(tmp_path):
    runner, _ = train(tmp_path, {105: NAN, 113: INF})
    logged = re.findall(r'The loss of iteration .*\n.*', log_of(runner))
    assert [int(re.search(r'iteration (\d+)', line)[1]) for line in logged] == [2, 4, 6, 8]
    assert '1 in a row, at most 5; 1 in all, at most 100' in logged[0]
    assert '1 in a row, at most 5; 4 in all, at most 100' in logged[3]
    assert 'loss_cls=nan' in logged[0] and 'loss_cls=inf' in logged[1]
    images = ', '.join(f'{100 + i} (images/{i}.png)' for i in range(4, 8))
    assert 'rank 0: loss=nan, loss_cls=nan, ' in logged[0]
    assert logged[0].endswith(f'image ids: {images}')


@pytest.mark.parametrize(
    'limits, bad_ids, last_iteration, reason',
    [
        (dict(max_consecutive=2), [105, 109], 3, r'2 times in a row \(max_consecutive\)'),
        (dict(max_consecutive=2, max_total=2), [105, 113], 4, r'2 times in all \(max_total\)'),
        (dict(max_consecutive=1), [101], 1, r'1 times in a row \(max_consecutive\)'),
    ],
)
def test_limits_stop_with_a_checkpoint(tmp_path, limits, bad_ids, last_iteration, reason):
    with pytest.raises(NonFiniteLossError, match=reason) as error:
        train(tmp_path, dict.fromkeys(bad_ids, NAN), limits=limits)
    path = tmp_path / 'nonfinite_loss' / f'iter_{last_iteration}.pth'
    assert f'stopped at iteration {last_iteration}' in str(error.value)
    assert str(path) in str(error.value)
    assert (tmp_path / 'last_checkpoint').exists() == (last_iteration > 1)
    if last_iteration > 1:
        assert (tmp_path / 'last_checkpoint').read_text().endswith(f'iter_{last_iteration - 1}.pth')

    checkpoint = load_checkpoint_file(path)
    left_out = [(i - 100) // 4 for i in bad_ids]
    assert_same([checkpoint['state_dict']], train_plainly(left_out, last_iteration)[-1:])
    assert checkpoint['meta']['iter'] == last_iteration
    assert checkpoint['optimizer']['param_groups'][0]['weight_decay'] == 0.1
    [rank] = checkpoint['meta']['nonfinite_loss']
    first = 4 * (last_iteration - 1)
    assert rank['rank'] == 0
    assert rank['images'] == [
        dict(img_id=100 + i, img_path=f'images/{i}.png', scale_factor=[1.0, 1.0])
        for i in range(first, first + 4)
    ]
    assert rank['losses'].keys() == {'loss', 'loss_cls', 'loss_bbox'}
    assert math.isnan(rank['losses']['loss']) and math.isfinite(rank['losses']['loss_bbox'])


def test_a_run_can_go_on_from_the_diagnostic_checkpoint(tmp_path):
    with pytest.raises(NonFiniteLossError):
        train(tmp_path, {105: NAN}, limits=dict(max_consecutive=1))
    _, recorder = train(
        tmp_path / 'resumed', {}, resume=True, load_from=str(tmp_path / 'nonfinite_loss/iter_2.pth')
    )
    assert_same(recorder.weights, train_plainly(left_out=[1])[2:])


def test_a_resumed_run_goes_on_counting(tmp_path):
    bad = dict.fromkeys([105, 109], NAN)
    train(tmp_path / 'whole', bad)
    with pytest.raises(NonFiniteLossError, match='iteration 3, .* 2 times in a row'):
        train(
            tmp_path / 'in_a_row',
            bad,
            limits=dict(max_consecutive=2),
            resume=True,
            load_from=str(tmp_path / 'whole/iter_2.pth'),
        )
    with pytest.raises(NonFiniteLossError, match='iteration 6, .* 3 times in all'):
        train(
            tmp_path / 'in_all',
            bad,
            limits=dict(max_total=3),
            resume=True,
            load_from=str(tmp_path / 'whole/iter_5.pth'),
        )


def test_stops_at_once_where_the_weights_are_not_finite(tmp_path):
    class Spoiler(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter == 1:
                torch.nn.init.constant_(runner.model.backbone.layer1[0].weight, NAN)

    with pytest.raises(
        NonFiniteLossError,
        match=r'iteration 2,.* tensors of the model are not '
        r'finite themselves, e.g. backbone.layer1.0.weig',
    ):
        make_runner(tmp_path, model=make_model({}), hooks=[NonFiniteLossHook(), Spoiler()]).train()


@pytest.mark.parametrize('clip_grad', [None, dict(max_norm=1e6), dict(type='value', clip_value=9)])
@pytest.mark.parametrize('counts', [1, 2])
def test_gradients_that_are_not_finite_spoil_nothing(tmp_path, clip_grad, counts):
    runner, recorder = train_with_bad_gradients(
        tmp_path, accumulative_counts=counts, clip_grad=clip_grad
    )
    assert all(t.isfinite().all() for step in recorder.weights for t in step.values())
    if clip_grad is None or 'max_norm' in clip_grad:
        assert_same(recorder.weights, train_plainly([1, 5], 8, counts))
    found = re.findall(r'The gradients of iteration (\d+) are not finite', log_of(runner))
    assert found == ['2', '6']


def test_gradients_in_bfloat16_have_no_loss_scale_and_are_looked_at(tmp_path):
    runner, recorder = train_with_bad_gradients(
        tmp_path, type='AutocastOptimWrapper', dtype='bfloat16'
    )
    assert all(t.isfinite().all() for step in recorder.weights for t in step.values())
    assert runner.message_hub.get_info('nonfinite_losses') == 2


def test_gradients_that_are_never_finite_stop_the_training(tmp_path):
    model = make_model_of_bad_gradients(range(100, 116))
    before = parameters(model)
    with pytest.raises(
        NonFiniteLossError, match='whose gradients are not finite: .* 5 times in a row'
    ):
        make_runner(tmp_path, model=model, hooks=[NonFiniteLossHook()]).train()
    assert_same([parameters(model)], [before])


def test_large_finite_gradients_are_applied(tmp_path):
    """Their norm is beyond float32, as is that of each tensor."""
    model = make_model({})
    forward = model.head.forward
    model.head.forward = lambda x: ScaledGradient.apply(forward(x), 1e30)
    recorder = Recorder()
    make_runner(
        tmp_path,
        model=model,
        hooks=[NonFiniteLossHook(), recorder],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-30)),
        max_epochs=1,
    ).train()
    moved = recorder.weights[0]['head.weight'] - parameters(make_model({}))['head.weight']
    assert moved.abs().max() > 0.01


def test_without_the_hook_updates_are_upstreams(tmp_path):
    """The guard is off: infinite gradients reach the weights, as they do in mmengine."""
    model = make_model_of_bad_gradients([100])
    make_runner(tmp_path, model=model, max_epochs=1).train()
    assert not model.head.weight.isfinite().all()


class Custom(OptimWrapper):
    pass


@pytest.mark.parametrize('wrapper', [None, 'OptimWrapper', 'mmengine.OptimWrapper', Custom])
def test_the_wrapper_is_of_the_configured_class_and_can_leave_updates_out(tmp_path, wrapper):
    cfg = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1))
    if wrapper:
        cfg['type'] = wrapper
    runner = make_runner(tmp_path, optim_wrapper=dict(cfg))
    built = runner.build_optim_wrapper(runner.optim_wrapper)
    assert isinstance(built, Custom if wrapper is Custom else OptimWrapper)
    assert isinstance(built, UpdateGuard) and not built.guards_updates
    assert built.clip_grad_kwargs == dict(max_norm=1)


def test_a_wrapper_without_a_guard_is_refused(tmp_path):
    runner = make_runner(tmp_path, hooks=[NonFiniteLossHook()], runner_type=Runner)
    with pytest.raises(TypeError, match="is a OptimWrapper. Set runner_type='SwinExtRunner', or"):
        runner.train()


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='needs PyTorch 2.3')
def test_gradients_that_overflow_under_loss_scaling_do_not_count(tmp_path):
    scales = []

    class ScaleLoss(Hook):
        def before_train(self, runner):
            runner.optim_wrapper.loss_scaler = torch.amp.GradScaler(
                'cpu', init_scale=2.0**127, backoff_factor=2.0**-120
            )

        def after_train_iter(self, runner, **kwargs):
            scales.append(math.log2(runner.optim_wrapper.loss_scaler.get_scale()))

    runner, recorder = train(
        tmp_path, {100: 1000.0, 105: NAN}, dict(type='AutocastOptimWrapper'), hooks=[ScaleLoss()]
    )
    # The scale of the first iteration is too large, and lowered. A NaN leaves it alone.
    assert scales == [7] * 8
    assert_same(recorder.weights, train_plainly(left_out=[0, 1, 5], factors={100: 1000.0}))
    assert re.findall(r'The loss of iteration (\d+)', log_of(runner)) == ['2', '6']


def test_the_optimizer_is_left_as_it_was(tmp_path):
    runner, _ = train(tmp_path, {})
    wrapper = runner.optim_wrapper
    assert wrapper.step == type(wrapper).step.__get__(wrapper)
    assert wrapper.backward == type(wrapper).backward.__get__(wrapper)
    assert not list(tmp_path.glob('nonfinite*'))


def test_batches_without_metainfo_are_named_by_iteration(tmp_path):
    class Unnamed(ToyImages):
        def __getitem__(self, idx):
            return dict(inputs=super().__getitem__(idx)['inputs'])

    class Diverging(ToyDetector):
        def forward(self, inputs, mode='loss'):
            return dict(loss=self.head(torch.stack(inputs)).mean() * NAN)

    runner = make_runner(
        tmp_path,
        model=Diverging(),
        dataset=Unnamed(),
        max_epochs=1,
        hooks=[NonFiniteLossHook()],
        runner_type=Runner,
        optim_wrapper=dict(type='GuardedOptimWrapper', optimizer=dict(type='SGD', lr=0.01)),
    )
    runner.train()
    assert 'rank 0: loss=nan; image ids: not in the batch' in log_of(runner)


@pytest.mark.parametrize(
    'limits, message',
    [
        (dict(max_consecutive=0), 'max_consecutive=0 must be a number of iterations, 1 or more'),
        (dict(max_total='all'), "max_total='all' must be a number of iterations, 1 or more"),
    ],
)
def test_refused_limits(limits, message):
    with pytest.raises(ValueError, match=message):
        NonFiniteLossHook(**limits)


def test_several_optimizers_are_refused(tmp_path):
    runner = make_runner(tmp_path, hooks=[NonFiniteLossHook()])
    built = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.optim_wrapper = OptimWrapperDict(first=built)
    with pytest.raises(TypeError, match='optim_wrapper is an OptimWrapperDict'):
        runner.call_hook('before_train')


# Two processes: each rank has every second image, in batches of two


def update_alone(rank: int) -> tuple[list, str | None]:
    """A step for the gradients of this rank, which are infinite on the first."""
    parameter = torch.nn.Parameter(torch.ones(2))
    wrapper = GuardedOptimWrapper(torch.optim.SGD([parameter], lr=0.1))
    wrapper.guards_updates = True
    wrapper.update_params((ScaledGradient.apply(parameter) if rank == 0 else parameter).sum())
    return parameter.tolist(), wrapper.nonfinite


def train_rank(rank, folder: Path) -> dict:
    results = {}
    for counts in (1, 2):
        runner, recorder = train(
            folder / f'skipped{counts}',
            {105: NAN},
            dict(accumulative_counts=counts),
            launcher='pytorch',
            batch_size=2,
        )
        results[f'weights{counts}'] = recorder.weights
        results[f'log{counts}'] = log_of(runner) if rank == 0 else ''
    try:
        train(
            folder / 'stopped',
            dict.fromkeys([105, 108], NAN),
            limits=dict(max_consecutive=2),
            launcher='pytorch',
            batch_size=2,
        )
    except NonFiniteLossError as error:
        results['error'] = str(error)
    results['agreed'] = update_alone(rank)
    results['checkpoint'] = (folder / 'stopped/nonfinite_loss/iter_3.pth').is_file()
    return results


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    return folder, run_on_two_ranks(train_rank, folder)


@pytest.mark.parametrize('counts', [1, 2])
def test_ranks_skip_together(ranks, counts):
    _, results = ranks
    expected = train_plainly([1, 5], 8, counts)
    for rank in results:
        assert_same(rank[f'weights{counts}'], expected)


def test_ranks_agree_on_gradients_that_are_their_own(ranks):
    _, results = ranks
    assert [rank['agreed'] for rank in results] == [([1.0, 1.0], 'gradients')] * 2


def test_the_main_rank_logs_the_images_of_all(ranks):
    _, (main, _) = ranks
    first = re.search(r'The loss of iteration 2 .*\n(.*)\n(.*)', main['log1'])
    assert 'rank 0: loss=' in first[1] and 'nan' not in first[1]
    assert '104 (images/4.png), 106 (images/6.png)' in first[1]
    assert 'rank 1: loss=nan' in first[2]
    assert '105 (images/5.png), 107 (images/7.png)' in first[2]


def test_ranks_stop_together_after_the_checkpoint_is_written(ranks):
    folder, results = ranks
    for rank in results:
        assert (
            'stopped at iteration 3, whose loss is not finite: it was not finite 2 times'
            in (rank['error'])
        )
        assert 'rank 0: loss=nan' in rank['error']
        assert rank['checkpoint']
    checkpoint = load_checkpoint_file(folder / 'stopped/nonfinite_loss/iter_3.pth')
    assert [
        [image['img_id'] for image in rank['images']]
        for rank in checkpoint['meta']['nonfinite_loss']
    ] == [[108, 110], [109, 111]]
