from __future__ import annotations

import copy
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub

from swin_ext.engine.hooks import ResumableEarlyStoppingHook
from toy_noisy_training import MeanValue, make_runner, recorder_of, train
from two_ranks import log_of

NAN, INF = float('nan'), float('inf')


def stopping(**options):
    return dict(
        early_stopping=dict(
            type='ResumableEarlyStoppingHook',
            **dict(
                dict(monitor='toy/value', rule='greater', min_delta=0.002, patience=2), **options
            ),
        )
    )


def run(work_dir, values, resume_from=None, **options):
    """Train with these figures of its validations, one an iteration."""
    return train(
        work_dir,
        resume_from,
        default_hooks=stopping(**options),
        train_cfg=dict(val_interval=1),
        val_evaluator=[MeanValue(values)],
    )


@pytest.mark.parametrize(
    'values, options, last',
    [
        ([0.3, 0.301, 0.3015, 0.5], {}, 3),
        # Gains below 0.002 do not count, but two that add up to more do.
        ([0.3, 0.3015, 0.303, 0.3, 0.3, 0.5], {}, 5),
        ([0.3, 0.2, 0.4, 0.3, 0.4, 0.9], {}, 5),
        ([0.3, 0.2, 0.4, 0.3, 0.4, 0.9, 0.9, 0.9, 0.9], dict(patience=3), 9),
        ([0.3, 0.2, 0.3, 0.3, 0.1], dict(rule='less'), 4),
        # NaN is neither the best nor better, not even than nothing.
        ([NAN, 0.3, NAN, 0.4, NAN, NAN, 0.9], {}, 6),
        ([NAN, NAN, 0.9], {}, 2),
        # Infinity is not the best value for ever after.
        ([0.3, INF, 0.4, 0.3, 0.3, 0.9], {}, 5),
        # At once where it is better than the threshold; that itself is not.
        ([0.3, 0.5, 0.6, 0.7], dict(stopping_threshold=0.5), 3),
        ([0.3, 0.301, 0.302], dict(stopping_threshold=0.3), 2),
        ([0.3, 0.1, 0.05], dict(rule='less', stopping_threshold=0.2), 2),
        ([INF, 0.6], dict(stopping_threshold=0.5), 2),
    ],
)
def test_stops_after_patience_and_at_the_same_validation_when_resumed(
    tmp_path, values, options, last
):
    _, recorder = run(tmp_path / 'whole', values, **options)
    assert max(recorder.losses) == max(recorder.validated) == last
    for stop in range(1, last + 1):
        # The validation of the checkpoint's iteration is made again: it came after it.
        _, resumed = run(
            tmp_path / f'resumed_{stop}',
            values[stop - 1 :],
            tmp_path / f'whole/iter_{stop}.pth',
            **options,
        )
        assert max(resumed.validated) == last
        assert max(resumed.losses, default=stop) == last


def test_run_that_had_stopped_does_not_go_on_but_with_more_patience(tmp_path):
    # By epoch: written after the last validation.
    options = dict(stopping(), checkpoint=dict(type='CheckpointHook', interval=1))
    train(
        tmp_path / 'whole',
        default_hooks=options,
        train_cfg=dict(val_interval=1),
        val_evaluator=[MeanValue([0.3, 0.2, 0.1])],
    )
    checkpoint = tmp_path / 'whole/epoch_1.pth'
    _, again = run(tmp_path / 'again', [0.9], checkpoint)
    assert not again.losses and not again.validated
    _, patient = run(tmp_path / 'patient', [0.1, 0.9], checkpoint, patience=3)
    assert list(patient.validated) == [4]
    assert list(patient.losses) == [4]


def test_new_training_from_a_checkpoint_starts_counting_anew(tmp_path):
    run(tmp_path / 'whole', [0.3, 0.2, 0.1])
    runner = make_runner(
        tmp_path / 'tuned',
        default_hooks=stopping(),
        train_cfg=dict(val_interval=1),
        val_evaluator=[MeanValue([0.1, 0.2, 0.1, 0.1])],
        load_from=str(tmp_path / 'whole/iter_3.pth'),
    )
    runner.train()
    assert max(recorder_of(runner).validated) == 4


def test_unknown_metric_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(KeyError, match="no metric 'coco/segm_mAP', but toy/value. Set monitor"):
        run(tmp_path, [], monitor='coco/segm_mAP', strict=True)


class TwoFigures(MeanValue):
    """Figures of each validation by name, under `toy/`."""

    def compute_metrics(self, results):
        return self.values.pop(0)


@pytest.mark.parametrize('metric', ['loss', 'hd95'])
def test_a_run_whose_metric_falls_is_not_stopped(tmp_path, metric):
    """Its rule is told from the name."""
    values = [{metric: 10.0 - i} for i in range(12)]
    _, recorder = train(
        tmp_path,
        default_hooks=dict(
            early_stopping=dict(
                type='ResumableEarlyStoppingHook', monitor=f'toy/{metric}', patience=2
            )
        ),
        train_cfg=dict(val_interval=1),
        val_evaluator=[TwoFigures(values)],
    )
    assert max(recorder.losses) == 12


def test_validations_without_the_metric_are_warned_of_and_do_not_count(tmp_path):
    values = [dict(value=0.3), {}, {}, {}, dict(value=0.2), {}, dict(value=0.3), dict(value=0.9)]
    runner, recorder = train(
        tmp_path,
        log_level='WARNING',
        default_hooks=stopping(),
        train_cfg=dict(val_interval=1),
        val_evaluator=[TwoFigures(values)],
    )
    assert max(recorder.losses) == 7
    assert log_of(runner).count("no metric 'toy/value', but none. Set monitor") == 1


def test_two_hooks_keep_their_counts_apart(tmp_path):
    """`a` never gets better than at first, `b` always does."""
    hooks = [
        dict(stopping(monitor='toy/a', patience=4)['early_stopping']),
        dict(stopping(monitor='toy/b', patience=4)['early_stopping']),
    ]

    def run(work_dir, first, resume_from=None):
        values = [dict(a=0.5, b=0.1 * i) for i in range(first, 12)]
        return train(
            work_dir,
            resume_from,
            custom_hooks=copy.deepcopy(hooks),
            train_cfg=dict(val_interval=1),
            val_evaluator=[TwoFigures(values)],
        )[1]

    assert max(run(tmp_path / 'whole', 0).losses) == 5
    assert max(run(tmp_path / 'resumed', 2, tmp_path / 'whole/iter_3.pth').losses) == 5


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(rule='max'), "rule must be 'greater', 'less' or None, not 'max'"),
        (dict(min_delta=-0.1), 'min_delta=-0.1 must be 0 or more'),
        (dict(patience=0), 'patience=0 1 or more'),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResumableEarlyStoppingHook(**options)


def test_a_loop_that_cannot_be_stopped_is_refused():
    runner = SimpleNamespace(train_loop=object(), _resume=False)
    with pytest.raises(ValueError, match='object of train_cfg does not look at stop_training'):
        ResumableEarlyStoppingHook('loss').before_train(runner)


@pytest.mark.parametrize('kind', [float, torch.tensor, np.float64, np.float32])
def test_values_of_any_type_are_compared(kind):
    """As upstream's own tests, figures may be tensors; one that is None is no gain."""
    runner = SimpleNamespace(
        train_loop=SimpleNamespace(stop_training=False),
        message_hub=MessageHub.get_instance(f'early stopping {kind}'),
        logger=logging.getLogger('early stopping'),
        iter=0,
    )
    hook = ResumableEarlyStoppingHook('mAP', min_delta=0.5, patience=3)
    stopped = []
    for value in (kind(0.1), kind(0.7), kind(0.9), None, kind(float('nan'))):
        hook.after_val_epoch(runner, dict(mAP=value))
        stopped.append(runner.train_loop.stop_training)
    assert stopped == [False, False, False, False, True]
    assert hook.best == pytest.approx(0.7)
