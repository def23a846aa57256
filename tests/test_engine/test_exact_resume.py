"""Resumed runs against the uninterrupted one, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import RUNNERS
from torch.utils.data import DataLoader, IterableDataset

from toy_noisy_training import EPOCH, MAX_ITERS, MeanValue, NoisyDataset, make_runner, train
from two_ranks import run_on_two_ranks

CONFIGS = Path(__file__).parents[2] / 'configs'
ONE_CYCLE = [
    dict(type='GroupOneCycleLR', pct_start=0.3, convert_to_iter_based=True),
    dict(type='LinearMomentum', start_factor=0.5, by_epoch=False, end=10),
]
WARMUP_STEP = [dict(type='WarmupStepLR', warmup=0.2, convert_to_iter_based=True)]
BY_EPOCH = [dict(type='MultiStepLR', milestones=[1, 2], gamma=0.3)]
PLATEAU = [dict(type='ReduceOnPlateauLR', monitor='toy/value', rule='less', factor=0.5, patience=0)]
ADAMW = dict(type='AdamW', lr=0.05)
EMA = dict(ema=dict(type='EMAHook', ema_type='MomentumAnnealingEMA', gamma=4))
STOPPING = dict(
    early_stopping=dict(
        type='ResumableEarlyStoppingHook',
        monitor='toy/value',
        rule='greater',
        min_delta=100,
        patience=2,
    )
)
ITERATIONS = dict(type='ResumableIterTrainLoop', max_epochs=None, max_iters=MAX_ITERS)

RUNS = dict(
    plain={},
    workers=dict(num_workers=2),
    one_cycle_and_momentum=dict(param_scheduler=ONE_CYCLE),
    warmup_step=dict(param_scheduler=WARMUP_STEP, optim_wrapper=dict(optimizer=ADAMW)),
    fused=dict(optim_wrapper=dict(optimizer=dict(ADAMW, fused=True), clip_grad=dict(max_norm=1))),
    by_epoch=dict(param_scheduler=BY_EPOCH),
    plateau=dict(param_scheduler=PLATEAU),
    ema=dict(default_hooks=EMA),
    accumulation=dict(optim_wrapper=dict(accumulative_counts=3)),
    accumulation_over_epochs=dict(optim_wrapper=dict(accumulative_counts=5)),
    bfloat16=dict(optim_wrapper=dict(type='AutocastOptimWrapper', dtype='bfloat16')),
    clipped=dict(optim_wrapper=dict(clip_grad=dict(max_norm=0.1))),
    early_stopping=dict(default_hooks=STOPPING),
    all=dict(
        num_workers=2,
        param_scheduler=ONE_CYCLE,
        default_hooks=dict(**EMA, **STOPPING),
        optim_wrapper=dict(type='AutocastOptimWrapper', dtype='bfloat16', accumulative_counts=5),
    ),
    iterations=dict(train_cfg=ITERATIONS),
    iterations_infinite=dict(
        train_cfg=ITERATIONS,
        sampler='InfiniteSampler',
        num_workers=2,
        optim_wrapper=dict(accumulative_counts=5),
    ),
)


def state_of(runner):
    """All tensors and numbers that training has left behind."""
    return dict(
        model=runner.model.state_dict(),
        ema=[hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')],
        optimizer=runner.optim_wrapper.state_dict(),
        schedulers=[scheduler.state_dict() for scheduler in runner.param_schedulers or []],
    )


def assert_same(actual, expected, where='state'):
    assert type(actual) is type(expected), where
    if isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected), where
    elif isinstance(expected, dict):
        assert list(actual) == list(expected), where
        for key in expected:
            assert_same(actual[key], expected[key], f'{where}.{key}')
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected), where
        for i, pair in enumerate(zip(actual, expected)):
            assert_same(*pair, f'{where}[{i}]')
    else:
        assert actual == expected or expected is None or callable(expected), where


def after(iteration, by_iteration):
    return {i: value for i, value in by_iteration.items() if i > iteration}


@pytest.mark.parametrize('run', RUNS)
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, run):
    whole, expected = train(tmp_path / 'whole', **RUNS[run])
    last = max(expected.losses)
    assert last == (9 if 'early_stopping' in run or run == 'all' else MAX_ITERS)
    assert len(set(expected.losses.values())) == last
    for stop in (1, 3, EPOCH, 5, 6, 2 * EPOCH, last):
        resumed, actual = train(
            tmp_path / f'resumed_{stop}', tmp_path / f'whole/iter_{stop}.pth', **RUNS[run]
        )
        for what in ('read', 'losses', 'groups'):
            assert getattr(actual, what) == after(stop, getattr(expected, what)), (stop, what)
        # That of iteration `stop` itself, too: it came after the checkpoint.
        assert actual.validated == after(stop - 1, expected.validated), stop
        assert_same(state_of(resumed), state_of(whole))


def test_resumes_from_the_best_checkpoint_written_within_a_validation(tmp_path):
    values = [0.1, 0.3, 0.2, 0.1]  # after iterations 3, 6, 9 and 12
    options = dict(
        param_scheduler=PLATEAU,
        default_hooks=EMA,
        custom_hooks=[dict(type='BestCheckpointHook', metric='toy/value', rule='greater')],
    )
    whole, expected = train(tmp_path / 'whole', val_evaluator=[MeanValue(values)], **options)
    resumed, actual = train(
        tmp_path / 'resumed',
        tmp_path / 'whole/best_toy_value_iter_6.pth',
        val_evaluator=[MeanValue(values[2:])],
        **options,
    )
    assert actual.losses == after(6, expected.losses)
    assert actual.validated == after(6, expected.validated)  # not that of iteration 6 again
    assert_same(state_of(resumed), state_of(whole))


def test_resumes_from_checkpoints_by_epoch(tmp_path):
    options = dict(
        param_scheduler=BY_EPOCH,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    whole, expected = train(tmp_path / 'whole', **options)
    resumed, actual = train(tmp_path / 'resumed', tmp_path / 'whole/epoch_2.pth', **options)
    assert actual.losses == after(2 * EPOCH, expected.losses)
    assert_same(state_of(resumed), state_of(whole))


def test_number_of_workers_changes_nothing(tmp_path):
    _, none = train(tmp_path / 'none')
    _, two = train(tmp_path / 'two', num_workers=2)
    assert none.losses == two.losses and none.read == two.read


def test_noise_differs_by_seed_iteration_sample_and_generator(tmp_path):
    _, first = train(tmp_path / 'first', seed=1)
    _, second = train(tmp_path / 'second', seed=2)
    noise = [
        value
        for run in (first, second)
        for batch in run.read.values()
        for sample in batch
        for value in sample[1:]
    ]
    assert len(set(noise)) == len(noise)
    for epoch in range(3):
        read = [sample[0] for i in range(EPOCH) for sample in first.read[EPOCH * epoch + i + 1]]
        assert sorted(read) == list(range(11))


def test_seed_that_was_drawn_is_resumed(tmp_path):
    whole, expected = train(tmp_path / 'whole', seed=None)
    resumed, actual = train(tmp_path / 'resumed', tmp_path / 'whole/iter_6.pth', seed=None)
    assert resumed.seed == whole.seed
    assert actual.losses == after(6, expected.losses)


def test_validation_draws_do_not_reach_training(tmp_path):
    _, often = train(tmp_path / 'often')
    _, once = train(tmp_path / 'once', train_cfg=dict(val_interval=100))
    assert len(once.validated) == 1 and len(often.validated) == 4
    assert often.losses == once.losses


@pytest.mark.parametrize('loop', [{}, ITERATIONS])
def test_skipped_data_are_not_read(tmp_path, loop, monkeypatch):
    train(tmp_path / 'whole', train_cfg=loop)
    read = []
    getitem = NoisyDataset.__getitem__
    monkeypatch.setattr(
        NoisyDataset, '__getitem__', lambda self, i: read.append(i) or getitem(self, i)
    )
    train(
        tmp_path / 'resumed',
        tmp_path / 'whole/iter_10.pth',
        train_cfg=dict(loop, val_interval=100),
        val_cfg=None,
        val_dataloader=None,
        val_evaluator=None,
    )
    assert len(read) == 5  # of the 11 of the last epoch, iterations 11 and 12 have 3 and 2


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(batch_size=2), 'iteration 6: .*batch_size: 3 -> 2.*load_from, without resume'),
        (dict(dataset=torch.utils.data.Subset(NoisyDataset(), range(9))), 'num_samples: 11 -> 9'),
    ],
)
def test_other_batches_than_the_checkpoint_are_refused(tmp_path, change, message):
    train(tmp_path / 'whole')
    with pytest.raises(ValueError, match=message):
        train(tmp_path / 'resumed', tmp_path / 'whole/iter_6.pth', train_dataloader=change)


def test_data_without_indices_are_refused(tmp_path):

    class Stream(IterableDataset):
        def __iter__(self):
            yield {}

    runner = make_runner(tmp_path, train_dataloader=None, optim_wrapper=None, train_cfg=None)
    with pytest.raises(TypeError, match='read by index.* a Stream'):
        runner.build_train_loop(
            dict(type='ResumableIterTrainLoop', max_iters=3, dataloader=DataLoader(Stream()))
        )


def test_two_processes_resume_as_they_would_have_gone_on(tmp_path):
    results = run_on_two_ranks(train_as_rank, tmp_path)
    assert results[0]['whole']['losses'] != results[1]['whole']['losses']  # other data and noise
    for rank in (0, 1):
        whole = results[rank]['whole']
        assert list(whole['losses']) == [1, 2, 3, 4, 5, 6]
        for stop in (1, 3, 5):
            resumed = results[rank][stop]
            assert resumed['losses'] == after(stop, whole['losses']), (rank, stop)
            assert_same(resumed['weights'], whole['weights'])
            # Batch norm's statistics are of each rank, and the checkpoint has those of rank 0.
            assert rank or torch.equal(resumed['statistics'], whole['statistics'])


def train_as_rank(rank: int, root: Path) -> dict:
    options = dict(
        launcher='pytorch',
        cfg=dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel', device_ids=None)),
        optim_wrapper=dict(accumulative_counts=4),
        seed=None,
    )
    results = {}
    for stop in ('whole', 1, 3, 5):
        checkpoint = None if stop == 'whole' else root / f'whole/iter_{stop}.pth'
        runner, recorder = train(root / str(stop), checkpoint, **options)
        model = runner.model.module
        results[stop] = dict(
            losses=recorder.losses,
            weights=[p.detach() for p in model.parameters()],
            statistics=model.backbone[1].running_mean,
        )
        torch.distributed.barrier()
    return results


def test_mask_rcnn_resumes_amid_an_accumulation(toy_cmr, tmp_path):
    """Drop path, samplers of RoIs and augmentations draw; EMA and OneCycleLR have state."""
    schedules = CONFIGS / '_base_/schedules'
    pieces = ['amp_bf16', 'ema', 'slow_backbone']
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = {
        [str(CONFIGS / 'mask_rcnn_swin-nano_cmr.py')]
        + [str(schedules / f'{piece}.py') for piece in pieces]
    }
optim_wrapper = dict(**_base_.amp_bf16, **_base_.slow_backbone, accumulative_counts=3)
default_hooks = dict(ema=_base_.ema)
custom_hooks = []
model = dict(backbone=dict(drop_path_rate=0.3))
""")

    def run(name, **options):
        cfg = Config.fromfile(config)
        cfg.merge_from_dict(
            {
                'data_root': str(toy_cmr.root),
                'work_dir': str(tmp_path / name),
                'max_epochs': 2,
                'train_dataloader.batch_size': 1,
                'train_dataloader.dataset.pipeline.2.scale': (64, 64),
                'train_cfg.val_begin': 1,
                'train_cfg.val_interval': 100,
                'default_hooks.checkpoint.interval': 5,
                'randomness.seed': 0,
                'log_level': 'ERROR',
                'experiment_name': f'mask_rcnn_{name}',
                **options,
            }
        )
        runner = RUNNERS.build(cfg)
        recorder = Losses()
        runner.register_hook(recorder)
        runner.train()
        return runner, recorder.losses

    whole, expected = run('whole')
    resumed, actual = run(
        'resumed',
        resume=True,
        load_from=str(tmp_path / 'whole/iter_5.pth'),
        **{'train_dataloader.num_workers': 2},
    )
    assert len(expected) == 8 and len({str(losses) for losses in expected.values()}) == 8
    assert actual == after(5, expected)
    assert_same(state_of(resumed), state_of(whole))


class Losses(Hook):
    def __init__(self):
        self.losses = {}

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses[runner.iter + 1] = {key: value.item() for key, value in outputs.items()}
