"""Training with a schedule of what is frozen, against training written out in plain PyTorch."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from swin_ext.checkpoint.safe_reading import load_checkpoint_file
from swin_ext.engine.hooks import BackboneFreezeHook, backbone_freeze_hook
from swin_ext.models import SwinBackbone
from toy_detector import ToyDetector, ToyImages, make_runner
from two_ranks import log_of, run_on_two_ranks

ARCH = dict(embed_dims=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2))
IMAGE_SHAPE = (3, 32, 32)
# Of 4 iterations an epoch. The first layer stays frozen: nothing in it is drawn at random.
PATTERNS = [
    dict(at=0, patterns=['backbone.layer[01].*']),
    dict(at=3, patterns=['backbone.layer0.*']),
]
STAGES = [
    dict(at=0, frozen_stages=4),
    dict(at=2, frozen_stages=2),
    dict(at=5, frozen_stages=-1),
]
LR, MILESTONE, BACKBONE_LR_MULT = 0.01, 4, 0.1
OPTIMIZERS = [
    dict(type='AdamW', lr=LR, weight_decay=0.1),
    dict(type='SGD', lr=LR, momentum=0.9, weight_decay=0.1),
]
CLIP_NORM = 0.5
SCHEDULER = dict(type='MultiStepLR', milestones=[MILESTONE], gamma=0.1, by_epoch=False)


def optim_wrapper(optimizer, **kwargs):
    return dict(
        optimizer=copy.deepcopy(optimizer),
        paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=BACKBONE_LR_MULT))),
        clip_grad=dict(max_norm=CLIP_NORM),
        **kwargs,
    )


def swin_detector(frozen_stages=-1):
    torch.manual_seed(0)
    return ToyDetector(
        SwinBackbone(arch=ARCH, drop_path_rate=0.0, frozen_stages=frozen_stages, qkv_bias=False)
    )  # gradients of biases of keys are rounding errors, which AdamW scales up


CASES = dict(
    patterns=(ToyDetector, PATTERNS, ToyImages()),
    stages=(swin_detector, STAGES, ToyImages(IMAGE_SHAPE)),
)


def is_frozen(name, entry):
    """Whether a parameter is frozen, by its name alone."""
    if 'patterns' in entry:
        layers = entry['patterns'][0][len('backbone.layer') : -len('.*')].strip('[]')
        return any(name.startswith(f'backbone.layer{i}.') for i in layers)
    stages = entry['frozen_stages']
    frozen = ['backbone.patch_embed.'] if stages >= 0 else []
    frozen += [f'backbone.{part}{i}.' for i in range(stages) for part in ('stages.', 'norm')]
    return name.startswith(tuple(frozen))


def train_plainly(model, schedule, dataset, optimizer, batch_size=4, num_iters=8):
    """Train with an optimizer for each parameter, made when the parameter is first trained.

    Returns:
        For each iteration, the norm of the gradients and the rate of each optimizer.
    """
    optimizer = dict(optimizer)
    optimizer_class = getattr(torch.optim, optimizer.pop('type'))
    optimizers, history = {}, []
    for step in range(num_iters):
        entry = [entry for entry in schedule if entry['at'] <= step][-1]
        model.train()
        for name, module in model.named_modules():
            if name.count('.') == 1 and is_frozen(f'{name}.', entry):
                module.eval()
        for name, parameter in model.named_parameters():
            parameter.grad = None
            parameter.requires_grad_(not is_frozen(name, entry))
            if parameter.requires_grad and name not in optimizers:
                optimizers[name] = optimizer_class([parameter], **optimizer)
        first = step * batch_size % len(dataset)
        samples = [dataset[i] for i in range(first, first + batch_size)]
        losses = model(
            torch.stack([sample['inputs'] for sample in samples]),
            [sample['data_samples'] for sample in samples],
            mode='loss',
        )
        sum(losses.values()).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        rates = {}
        for name, own in optimizers.items():
            rates[name] = LR * (0.1 if step >= MILESTONE else 1)
            rates[name] *= BACKBONE_LR_MULT if name.startswith('backbone') else 1
            own.param_groups[0]['lr'] = rates[name]
            own.step()
        history.append(dict(norm=float(norm), rates=rates))
    return history


class Recorder(Hook):
    """Keeps what there is to see after each iteration."""

    priority = 'LOWEST'

    def __init__(self):
        self.iterations = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        groups = runner.optim_wrapper.optimizer.param_groups
        self.rates = {id(p): group['lr'] for group in groups for p in group['params']}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        model = runner.model
        norm = runner.message_hub.log_scalars.get('train/grad_norm')
        self.iterations.append(
            dict(
                norm=float(norm.current())
                if norm
                else None,  # None while gradients are accumulated
                rates={name: self.rates[id(p)] for name, p in model.named_parameters()},
                trainable={name for name, p in model.named_parameters() if p.requires_grad},
                in_training={name for name, m in model.named_modules() if m.training},
                weights={name: t.clone() for name, t in model.state_dict().items()},
            )
        )


def train(work_dir, case='patterns', optimizer=OPTIMIZERS[0], hooks=(), **kwargs):
    make_model, schedule, dataset = CASES[case]
    recorder = Recorder()
    kwargs.setdefault('model', make_model())
    kwargs.setdefault('optim_wrapper', optim_wrapper(optimizer))
    runner = make_runner(
        work_dir,
        hooks=[dict(type='BackboneFreezeHook', schedule=schedule), recorder, *hooks],
        dataset=dataset,
        param_scheduler=SCHEDULER,
        **kwargs,
    )
    runner.train()
    return runner, recorder.iterations


def assert_same_weights(own, expected, **tolerance):
    assert own.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            own[name], tensor, msg=lambda m, n=name: f'{n}: {m}', **tolerance
        )


@pytest.mark.parametrize('optimizer', OPTIMIZERS, ids=lambda optimizer: optimizer['type'])
@pytest.mark.parametrize('case', CASES)
def test_trains_like_plain_pytorch(tmp_path, case, optimizer):
    runner, iterations = train(tmp_path, case, optimizer)
    make_model, schedule, dataset = CASES[case]
    model = make_model()
    history = train_plainly(model, schedule, dataset, optimizer)
    assert_same_weights(runner.model.state_dict(), model.state_dict(), rtol=1e-5, atol=1e-6)
    for own, expected in zip(iterations, history):
        assert own['norm'] == pytest.approx(expected['norm'], rel=1e-4)
        assert {name: own['rates'][name] for name in expected['rates']} == pytest.approx(
            expected['rates']
        )


@pytest.mark.parametrize('case', CASES)
def test_frozen_parameters_and_buffers_stay_while_they_are_frozen(tmp_path, case):
    _, iterations = train(tmp_path, case)
    make_model, schedule, _ = CASES[case]
    before = make_model().state_dict()
    for step, iteration in enumerate(iterations):
        entry = [entry for entry in schedule if entry['at'] <= step][-1]
        for name, _ in make_model().named_parameters():
            frozen = is_frozen(name, entry)
            assert (name in iteration['trainable']) != frozen
            assert torch.equal(iteration['weights'][name], before[name]) == frozen, (step, name)
        for name, tensor in iteration['weights'].items():
            if is_frozen(name, entry):
                assert torch.equal(tensor, before[name]), (step, name)
        before = iteration['weights']


def test_stages_are_those_of_the_argument_of_the_backbone(tmp_path):
    _, iterations = train(tmp_path, 'stages', model=swin_detector(frozen_stages=2))
    for step, iteration in enumerate(iterations):
        stages = [entry['frozen_stages'] for entry in STAGES if entry['at'] <= step][-1]
        built = swin_detector(frozen_stages=stages).train()
        assert iteration['trainable'] == {
            name for name, p in built.named_parameters() if p.requires_grad
        }
        assert iteration['in_training'] == {
            name for name, module in built.named_modules() if module.training
        }


@pytest.mark.parametrize(
    'train_cfg',
    [
        dict(type='EpochTrainLoopWithIterVal', max_epochs=2, val_begin=0, val_interval=1),
        dict(type='EpochBasedTrainLoop', max_epochs=2),
        dict(type='IterBasedTrainLoop', max_iters=4, val_interval=1),
    ],
    ids=lambda train_cfg: train_cfg['type'],
)
def test_frozen_modules_stay_in_evaluation_mode_after_validation(tmp_path, train_cfg):
    _, iterations = train(tmp_path, train_cfg=train_cfg, val_interval=1)
    modules = [name for name, _ in ToyDetector().named_modules()]
    for step, iteration in enumerate(iterations):
        frozen = ('backbone.layer0', 'backbone.layer1') if step < 3 else ('backbone.layer0',)
        assert iteration['in_training'] == {m for m in modules if not m.startswith(frozen)}


def test_methods_of_the_modules_stay_their_own(tmp_path):
    class Look(Hook):
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            replaced = [m for m in runner.model.modules() if 'train' in vars(m)]
            assert not replaced

    train(tmp_path, hooks=[Look()])


@pytest.mark.parametrize('stop', [2, 3, 4, 7])
@pytest.mark.parametrize('case', CASES)
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path, case, stop):
    whole, whole_iterations = train(tmp_path / 'whole', case)
    resumed, iterations = train(
        tmp_path / 'resumed',
        case,
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{stop}.pth'),
    )
    assert len(iterations) == 8 - stop
    for own, expected in zip(iterations, whole_iterations[stop:]):
        assert own['trainable'] == expected['trainable']
        assert own['in_training'] == expected['in_training']
        assert own['rates'] == expected['rates']
        assert_same_weights(own['weights'], expected['weights'], rtol=0, atol=0)
    own, expected = (runner.optim_wrapper.state_dict()['state'] for runner in (resumed, whole))
    assert own.keys() == expected.keys()
    for index, state in expected.items():
        assert_same_weights(own[index], state, rtol=0, atol=0)


@pytest.mark.parametrize('stop', [3, 4, 5])
def test_a_change_waits_for_gradients_that_are_being_accumulated(tmp_path, stop):
    """At 3 of `PATTERNS`, of the four iterations whose gradients make the first update."""
    wrapper = optim_wrapper(OPTIMIZERS[0], accumulative_counts=4)
    _, whole = train(tmp_path / 'whole', optim_wrapper=copy.deepcopy(wrapper))
    assert ['backbone.layer1.0.weight' in i['trainable'] for i in whole] == [False] * 4 + [True] * 4
    _, resumed = train(
        tmp_path / 'resumed',
        optim_wrapper=wrapper,
        resume=True,
        load_from=str(tmp_path / 'whole' / f'iter_{stop}.pth'),
    )
    for own, expected in zip(resumed, whole[stop:]):
        assert own['trainable'] == expected['trainable']
        assert_same_weights(own['weights'], expected['weights'], rtol=0, atol=0)


def test_mixed_precision(tmp_path):
    _, exact = train(tmp_path / 'float32')
    wrapper = optim_wrapper(OPTIMIZERS[0], type='AutocastOptimWrapper', dtype='bfloat16')
    _, rounded = train(tmp_path / 'bfloat16', optim_wrapper=wrapper)
    for own, expected in zip(rounded, exact):
        assert own['trainable'] == expected['trainable']
        # The steps of AdamW are as long as the rate, whatever the gradient; it may change sign.
        assert_same_weights(own['weights'], expected['weights'], rtol=0, atol=8 * 2 * LR)
    initial, trained = ToyDetector().state_dict(), rounded[-1]['weights']
    assert {name for name in initial if torch.equal(initial[name], trained[name])} == {
        name for name in initial if name.startswith('backbone.layer0')
    }


@pytest.mark.skipif(not hasattr(torch.amp, 'GradScaler'), reason='needs PyTorch 2.3')
def test_loss_scaling(tmp_path):
    class ScaleLoss(Hook):
        def before_train(self, runner):
            runner.optim_wrapper.loss_scaler = torch.amp.GradScaler('cpu', init_scale=1024.0)

    wrapper = optim_wrapper(OPTIMIZERS[0], type='AutocastOptimWrapper')  # float32 on a CPU
    _, exact = train(tmp_path / 'unscaled')
    _, scaled = train(tmp_path / 'scaled', optim_wrapper=wrapper, hooks=[ScaleLoss()])
    assert_same_weights(scaled[-1]['weights'], exact[-1]['weights'], rtol=1e-6, atol=1e-7)


def test_by_epoch(tmp_path):
    schedule = [dict(at=0, patterns=['backbone.*']), dict(at=1, patterns=[])]
    recorder = Recorder()
    runner = make_runner(
        tmp_path,
        hooks=[BackboneFreezeHook(schedule, by_epoch=True), recorder],
        optim_wrapper=optim_wrapper(OPTIMIZERS[0]),
    )
    runner.train()
    everything = {name for name, _ in ToyDetector().named_parameters()}
    head = {'head.weight', 'head.bias'}
    assert [i['trainable'] for i in recorder.iterations] == [head] * 4 + [everything] * 4


def test_what_is_frozen_again_and_thawed_starts_from_new_momenta(tmp_path):
    schedule = [
        dict(at=0, patterns=[]),
        dict(at=2, patterns=['backbone.*']),
        dict(at=4, patterns=[]),
    ]
    states = []

    class States(Hook):
        def after_train_iter(self, runner, **kwargs):
            state = runner.optim_wrapper.optimizer.state
            states.append(
                {
                    name: int(state[p]['step'])
                    for name, p in runner.model.named_parameters()
                    if p in state
                }
            )

    make_runner(
        tmp_path,
        hooks=[BackboneFreezeHook(schedule), States()],
        optim_wrapper=optim_wrapper(OPTIMIZERS[0]),
    ).train()
    steps = [(state.get('backbone.layer0.0.weight'), state['head.weight']) for state in states]
    assert steps == [(1, 1), (2, 2), (None, 3), (None, 4), (1, 5), (2, 6), (3, 7), (4, 8)]


def test_moving_averages_of_frozen_parameters_stay(tmp_path):
    runner = make_runner(
        tmp_path,
        hooks=[
            dict(type='BackboneFreezeHook', schedule=PATTERNS),
            dict(type='EMAHook', momentum=0.3),
        ],
    )
    runner.train()
    average = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model.module
    initial = ToyDetector().state_dict()
    for name, tensor in average.state_dict().items():
        frozen = name.startswith('backbone.layer0')
        assert torch.equal(tensor, initial[name]) == frozen, name
    expected = initial['backbone.layer1.0.weight']
    for step in range(3, 8):
        weights = load_checkpoint_file(tmp_path / f'iter_{step + 1}.pth')['ema_state_dict']
        # mmengine swaps them: the trained weights are under the names of the average.
        trained = weights['module.backbone.layer1.0.weight']
        expected = expected + 0.3 * (trained - expected)
    torch.testing.assert_close(average.backbone.layer1[0].weight.data, expected)


def test_counts_are_logged_at_each_change(tmp_path):
    runner, _ = train(tmp_path, 'stages')
    sizes = [
        sum(
            p.numel() for p in swin_detector(entry['frozen_stages']).parameters() if p.requires_grad
        )
        for entry in STAGES
    ]
    total = sum(p.numel() for p in swin_detector().parameters())
    assert re.findall(r'BackboneFreezeHook: (.*)', log_of(runner)) == [
        f'frozen_stages={entry["frozen_stages"]} from iteration {entry["at"]} on: {size:,} '
        f'parameters trainable, {total - size:,} frozen.'
        for entry, size in zip(STAGES, sizes)
    ]


def test_batch_norms_that_the_config_freezes_are_not_thawed(tmp_path):
    model = ToyDetector()
    model.backbone.layer0[1].requires_grad_(False)
    schedule = [dict(at=0, patterns=['backbone.layer0.*']), dict(at=1, patterns=[])]
    runner = make_runner(tmp_path, model=model, hooks=[BackboneFreezeHook(schedule)])
    runner.train()
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == {
        'backbone.layer0.1.weight',
        'backbone.layer0.1.bias',
    }


def test_upstreams_runner_leaves_what_the_config_freezes_out_of_the_optimizer(tmp_path):
    with pytest.raises(
        ValueError,
        match=r'not in the optimizer, e.g. backbone.patch_embed.*'
        r"runner_type='SwinExtRunner'",
    ):
        train(
            tmp_path / 'frozen', 'stages', model=swin_detector(frozen_stages=2), runner_type=Runner
        )
    _, own = train(tmp_path / 'own', 'stages', model=swin_detector(frozen_stages=2))
    _, upstream = train(tmp_path / 'upstream', 'stages', runner_type=Runner)
    assert_same_weights(own[-1]['weights'], upstream[-1]['weights'], rtol=0, atol=0)


@pytest.mark.parametrize(
    'schedule, message',
    [
        (2, 'must be a list of dicts .* but is 2'),
        ([], r'must be a list of dicts .* but is \[\]'),
        ([dict(frozen_stages=2)], r"must have the keys .* but is {'frozen_stages': 2}"),
        ([dict(at=0)], 'must have the keys at and either'),
        ([dict(at=0, frozen_stages=2, patterns=[])], 'must have the keys at and either'),
        ([dict(at=0, frozen=2)], 'must have the keys at and either'),
        (['backbone'], "must have the keys .* but is 'backbone'"),
        ([dict(at=0, frozen_stages=2), dict(at=1, patterns=[])], 'in one way'),
        ([dict(at=-1, frozen_stages=2)], 'at must be a number of iterations or epochs, 0 or more'),
        ([dict(at=0.5, frozen_stages=2)], 'at must be a number of iterations or epochs, 0 or more'),
        ([dict(at=0, patterns='backbone.*')], 'patterns must be a list of strings'),
        ([dict(at=10, frozen_stages=2)], "must begin with at=0, but begins with {'at': 10"),
        (
            [dict(at=0, frozen_stages=2), dict(at=9, frozen_stages=1), dict(at=9, frozen_stages=0)],
            "at must rise .* {'at': 9, 'frozen_stages': 0} follows {'at': 9, 'frozen_stages': 1}",
        ),
    ],
)
def test_refused_schedules(schedule, message):
    with pytest.raises(ValueError, match=message):
        BackboneFreezeHook(schedule)


@pytest.mark.parametrize(
    'model, entry, message',
    [
        (
            ToyDetector,
            dict(frozen_stages=2),
            'frozen_stages needs .* SwinBackbone, .* a ToyBackbone',
        ),
        (swin_detector, dict(frozen_stages=5), 'frozen_stages=5 must be -1'),
        (
            ToyDetector,
            dict(patterns=['backbone.layer.1.*']),
            r"'backbone.layer.1.\*' matches no parameter. Close to it are: .*backbone.layer1",
        ),
        (
            ToyDetector,
            dict(patterns=['*.running_mean']),
            r'matches no parameter. Parts of the model are: backbone, head',
        ),
        (
            lambda: swin_detector(2),
            dict(patterns=['backbone.*']),
            r'backbone \(SwinBackbone\) has frozen_stages=2. Set it to -1',
        ),
        (ToyDetector, dict(patterns=['*']), 'leaves nothing to train'),
    ],
)
def test_refused_before_training(tmp_path, model, entry, message):
    runner = make_runner(tmp_path, model=model(), hooks=[BackboneFreezeHook([dict(at=0, **entry)])])
    with pytest.raises(ValueError, match=message):
        runner.train()


def test_epochs_are_refused_where_none_are_counted(tmp_path):
    hook = BackboneFreezeHook(PATTERNS, by_epoch=True)
    runner = make_runner(
        tmp_path, hooks=[hook], train_cfg=dict(type='IterBasedTrainLoop', max_iters=1)
    )
    with pytest.raises(ValueError, match='train_cfg.type is IterBasedTrainLoop'):
        runner.train()


def test_changes_after_the_end_are_named(tmp_path):
    schedule = [dict(at=0, patterns=[]), dict(at=8, patterns=['backbone.*'])]
    runner = make_runner(tmp_path, hooks=[BackboneFreezeHook(schedule)])
    runner.train()
    assert "{'at': 8, 'patterns': ['backbone.*']} never takes effect" in log_of(runner)


# Two processes


def train_rank(rank, folder: Path) -> dict:
    """Each rank has every second sample, in batches of half the size."""
    results = {}
    for case in CASES:
        _, iterations = train(folder / case, case, launcher='pytorch', batch_size=2)
        results[case] = [dict(weights=i['weights'], norm=i['norm']) for i in iterations]
    _, iterations = train(
        folder / 'config', 'stages', launcher='pytorch', batch_size=2, model=swin_detector(2)
    )
    results['config'] = [dict(weights=i['weights'], norm=i['norm']) for i in iterations]

    results['resumed'] = [
        dict(weights=i['weights'], norm=i['norm'])
        for i in train(
            folder / 'resumed',
            'stages',
            launcher='pytorch',
            batch_size=2,
            resume=True,
            load_from=str(folder / 'stages/iter_3.pth'),
        )[1]
    ]

    wrapper = optim_wrapper(OPTIMIZERS[1], accumulative_counts=2)
    _, iterations = train(
        folder / 'accumulated', 'stages', launcher='pytorch', batch_size=2, optim_wrapper=wrapper
    )
    results['accumulated'] = [i['weights'] for i in iterations]

    backbone_freeze_hook.rebuild_reducer = lambda runner: None  # in this process alone
    try:
        train(folder / 'stale', 'stages', launcher='pytorch', batch_size=2)
    except RuntimeError as error:
        results['stale'] = str(error)
    return results


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_two_ranks(train_rank, tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('case', [*CASES, 'config', 'resumed'])
def test_two_ranks_train_like_one_process_on_both_halves(ranks, case):
    make_model, schedule, dataset = CASES.get(case, CASES['stages'])
    model = make_model()
    history = train_plainly(model, schedule, dataset, OPTIMIZERS[0])
    first, second = (rank[case] for rank in ranks)
    expected = {f'module.{name}': tensor for name, tensor in model.state_dict().items()}
    assert_same_weights(first[-1]['weights'], second[-1]['weights'], rtol=0, atol=0)
    assert_same_weights(first[-1]['weights'], expected, rtol=1e-4, atol=1e-6)
    norms = [iteration['norm'] for iteration in first]
    assert norms == pytest.approx([step['norm'] for step in history][-len(norms) :], rel=1e-4)


def test_two_ranks_accumulate_like_one_process(ranks, tmp_path):
    wrapper = optim_wrapper(OPTIMIZERS[1], accumulative_counts=2)
    _, iterations = train(tmp_path, 'stages', optim_wrapper=wrapper)
    for rank in ranks:
        for own, expected in zip(rank['accumulated'], iterations):
            own = {name[len('module.') :]: tensor for name, tensor in own.items()}
            assert_same_weights(own, expected['weights'], rtol=1e-4, atol=1e-6)


def test_a_reducer_of_other_parameters_fails(ranks):
    """So that the test above would see it."""
    for rank in ranks:
        assert 'Expected to have finished reduction in the prior iteration' in rank['stale']
