import itertools

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from swin_ext.engine import EpochTrainLoopWithIterVal  # noqa: F401 (registers the loop)

_count = itertools.count()


class Numbers(Dataset):
    metainfo = {}

    def __init__(self):
        self.read = []

    def __len__(self):
        return 10

    def __getitem__(self, idx):
        self.read.append(idx)
        return dict(inputs=torch.tensor([float(idx)]))


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, inputs, mode):
        assert self.training == (mode == 'loss')
        out = self.linear(torch.stack(list(inputs)))
        return dict(loss=out.abs().mean()) if mode == 'loss' else [dict() for _ in inputs]


class Recorder(Hook):
    def __init__(self):
        self.batches, self.validated = [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        numbers = [int(x) for x in data_batch['inputs']]
        self.batches.append((runner.epoch, runner.iter, batch_idx, numbers))

    def after_val_epoch(self, runner, metrics=None):
        self.validated.append(runner.iter)


def make_runner(work_dir, num_workers=0, train_cfg=None, **options):
    recorder = Recorder()
    loader = dict(
        dataset=Numbers(),
        batch_size=3,
        num_workers=num_workers,
        sampler=dict(type='DefaultSampler', shuffle=True),
    )
    runner = Runner(
        model=Model(),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=train_cfg or dict(type='EpochTrainLoopWithIterVal', max_epochs=3, **options),
        val_cfg=dict(),
        val_evaluator=[],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[recorder],
        randomness=dict(seed=0),
        log_level='ERROR',
        experiment_name=f'{work_dir.name}-{next(_count)}',
    )
    return runner, recorder


@pytest.mark.parametrize(
    'val_begin, val_interval, expected',
    [
        (1, 5, [5, 10, 12]),
        (6, 5, [10, 12]),
        (1, 4, [4, 8, 12]),  # 12 ends an interval and the training, but is validated once
        (100, 1, [12]),
    ],
)
def test_validates_by_iteration_and_at_the_end(tmp_path, val_begin, val_interval, expected):
    runner, recorder = make_runner(tmp_path, val_begin=val_begin, val_interval=val_interval)
    runner.train()
    assert recorder.validated == expected
    assert [batch[:3] for batch in recorder.batches] == [
        (epoch, 4 * epoch + i, i) for epoch in range(3) for i in range(4)
    ]
    for epoch in range(3):
        numbers = [n for e, _, _, batch in recorder.batches if e == epoch for n in batch]
        assert sorted(numbers) == list(range(10))


@pytest.mark.parametrize(
    'intervals, expected',
    [
        # From iteration 7 on each second one, from 9 on each.
        ([(7, 2), (9, 1)], [5, 6, 8, 9, 10, 11, 12]),
        ([(4, 3)], [3, 6, 9, 12]),
        ([(100, 1)], [5, 10, 12]),
    ],
)
def test_dynamic_intervals_are_those_of_the_loop_by_iterations(tmp_path, intervals, expected):
    options = dict(val_begin=1, val_interval=5, dynamic_intervals=intervals)
    runner, recorder = make_runner(tmp_path / 'ours', **options)
    runner.train()
    by_iter = dict(type='IterBasedTrainLoop', max_iters=12, **options)
    upstream, upstream_recorder = make_runner(tmp_path / 'upstream', train_cfg=by_iter)
    upstream.train()
    assert recorder.validated == upstream_recorder.validated == expected


@pytest.mark.parametrize('stop', [5, 6, 7, 8, 9])
def test_resumed_runs_have_the_interval_of_their_iteration(tmp_path, stop):
    options = dict(val_begin=1, val_interval=5, dynamic_intervals=[(7, 2), (9, 1)])
    whole, whole_recorder = make_runner(tmp_path / 'whole', **options)
    whole.train()
    resumed, recorder = make_runner(tmp_path / 'resumed', **options)
    resumed._resume, resumed._load_from = True, str(tmp_path / f'whole/iter_{stop}.pth')
    resumed.train()
    # Checkpoints are written before the validation of their iteration, which is made first.
    assert recorder.validated == [i for i in whole_recorder.validated if i >= stop]


@pytest.mark.parametrize('stop, num_workers', [(1, 0), (6, 0), (6, 2), (8, 0), (11, 0)])
def test_resumes_within_an_epoch_with_the_batches_that_were_left(tmp_path, stop, num_workers):
    whole, whole_recorder = make_runner(tmp_path / 'whole', val_begin=1, val_interval=5)
    whole.train()
    resumed, recorder = make_runner(tmp_path / 'resumed', num_workers, val_begin=1, val_interval=5)
    resumed._resume, resumed._load_from = True, str(tmp_path / f'whole/iter_{stop}.pth')
    resumed.train()
    assert recorder.batches == whole_recorder.batches[stop:]
    assert recorder.validated == [i for i in whole_recorder.validated if i > stop]


def test_skipped_batches_are_not_read(tmp_path):
    whole, _ = make_runner(tmp_path / 'whole', val_begin=100, val_interval=5)
    whole.train()
    resumed, recorder = make_runner(tmp_path / 'resumed', val_begin=100, val_interval=5)
    resumed._resume, resumed._load_from = True, str(tmp_path / 'whole/iter_11.pth')
    resumed.val_dataloader.dataset.read.clear()
    resumed.train()
    trained_on = resumed.train_dataloader.dataset.read[:1]
    assert trained_on == recorder.batches[0][3]
    assert len(recorder.batches) == 1


@pytest.mark.parametrize(
    'options',
    [
        dict(),
        dict(val_begin=2),
        dict(val_interval=2),
        dict(val_begin=2, val_interval=3, dynamic_intervals=[(4, 1)]),
    ],
)
def test_validates_by_epoch_as_upstream_does(tmp_path, options):
    ours = dict(type='EpochTrainLoopWithIterVal', max_epochs=6, val_by_epoch=True, **options)
    runner, recorder = make_runner(tmp_path / 'ours', train_cfg=ours)
    runner.train()
    by_epoch = dict(type='EpochBasedTrainLoop', max_epochs=6, **options)
    upstream, upstream_recorder = make_runner(tmp_path / 'upstream', train_cfg=by_epoch)
    upstream.train()
    # The last epoch is always validated here.
    assert recorder.validated == sorted({*upstream_recorder.validated, 24})
    assert len(upstream_recorder.validated) > 1
