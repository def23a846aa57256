"""Resuming for more epochs than the training was planned for."""

from __future__ import annotations

import re

import pytest

from toy_noisy_training import MAX_EPOCHS, MAX_ITERS, train
from two_ranks import log_of

BY_ITER = dict(by_epoch=True, convert_to_iter_based=True)
SCHEDULES = {
    'one cycle': [dict(type='GroupOneCycleLR', **BY_ITER)],
    'one cycle of upstream': [dict(type='OneCycleLR', eta_max=0.1, **BY_ITER)],
    'warm-up and steps': [dict(type='WarmupStepLR', warmup=0.25, **BY_ITER)],
    'cosine by iteration behind a warm-up': [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5),
        dict(type='CosineAnnealingLR', eta_min=1e-4, by_epoch=False, begin=5),
    ],
    'plateau': [dict(type='ReduceOnPlateauLR', monitor='toy/value', by_epoch=True, patience=1)],
    'polynomial by epoch, with momentum': [
        dict(type='PolyLR', power=0.9, eta_min=1e-3, by_epoch=True),
        dict(type='LinearMomentum', start_factor=0.5, by_epoch=True),
    ],
}
WITH_LENGTH = [name for name in SCHEDULES if name != 'plateau']


def run(work_dir, schedule, resume_from=None, max_epochs=MAX_EPOCHS, **cfg):
    return train(
        work_dir,
        resume_from,
        param_scheduler=[dict(part) for part in SCHEDULES[schedule]],
        train_cfg=dict(max_epochs=max_epochs),
        cfg=cfg,
        log_level='INFO',
    )


def scheduled(recorder):
    """Learning rate and momentum of each iteration, (2 N,)."""
    groups = [group for groups in recorder.groups.values() for group in groups]
    return [group[key] for group in groups for key in ('lr', 'momentum')]


@pytest.mark.parametrize('stop', [5, MAX_ITERS])
@pytest.mark.parametrize('schedule', WITH_LENGTH)
def test_stretched_schedules_are_those_of_a_run_of_the_new_length(tmp_path, schedule, stop):
    run(tmp_path / 'short', schedule)
    checkpoint = tmp_path / f'short/iter_{stop}.pth'
    _, long = run(tmp_path / 'long', schedule, max_epochs=2 * MAX_EPOCHS)
    runner, extended = run(
        tmp_path / 'extended',
        schedule,
        checkpoint,
        max_epochs=2 * MAX_EPOCHS,
        extend_schedule=True,
    )
    assert scheduled(extended) == pytest.approx(scheduled(long)[2 * stop :], rel=1e-6)
    assert f'extend_schedule: from iteration {stop} of {2 * MAX_ITERS} on' in log_of(runner)
    assert 'To train as if the run had been planned' not in log_of(runner)


@pytest.mark.parametrize('schedule', WITH_LENGTH)
def test_without_stretching_the_rate_stays_and_a_warning_says_so(tmp_path, schedule):
    short, recorder = run(tmp_path / 'short', schedule)
    last = short.optim_wrapper.get_lr()['lr'][0]
    runner, resumed = run(
        tmp_path / 'resumed',
        schedule,
        tmp_path / f'short/iter_{MAX_ITERS}.pth',
        max_epochs=2 * MAX_EPOCHS,
    )
    by_epoch = 'epoch' in schedule
    if not by_epoch:  # the last epoch ended behind the checkpoint
        assert resumed.lrs == [pytest.approx(last)] * MAX_ITERS
    (warning,) = re.findall(r'The schedule \w*(?:LR) of the checkpoint ends at .*', log_of(runner))
    old, new = (MAX_EPOCHS, 2 * MAX_EPOCHS) if by_epoch else (MAX_ITERS, 2 * MAX_ITERS)
    unit = 'epoch' if by_epoch else 'iteration'
    assert f'ends at {unit} {old}, that of the config at {new}.' in warning
    assert 'resume with extend_schedule=True' in warning
    if not by_epoch:
        assert f'has come to its end: lr stays at {last:.3g}' in warning


@pytest.mark.parametrize('extend', [False, True])
def test_a_run_of_the_same_length_resumes_as_ever(tmp_path, extend):
    _, whole = run(tmp_path / 'whole', 'one cycle')
    runner, resumed = run(
        tmp_path / 'resumed', 'one cycle', tmp_path / 'whole/iter_5.pth', extend_schedule=extend
    )
    assert scheduled(resumed) == scheduled(whole)[10:]
    assert 'of the checkpoint ends at' not in log_of(runner)


def test_a_schedule_by_validations_is_not_stretched(tmp_path):
    run(tmp_path / 'short', 'plateau')
    with pytest.raises(ValueError, match='ReduceOnPlateauLR depends on the validations'):
        run(
            tmp_path / 'extended',
            'plateau',
            tmp_path / 'short/iter_5.pth',
            max_epochs=2 * MAX_EPOCHS,
            extend_schedule=True,
        )
