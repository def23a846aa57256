import errno
import json
import os
from pathlib import Path

import cv2
import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook

from swin_ext.engine.hooks import HistoryHook
from swin_ext.engine.hooks.history import read_history
from toy_watched_run import make_runner
from two_ranks import log_of


class MeanAP(BaseMetric):
    """0.125 at the first validation, 0.25 at the second ..."""

    default_prefix = 'coco'
    calls = 0

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        self.calls += 1
        return dict(segm_mAP=self.calls / 8)


class Failing(Hook):
    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            raise KeyboardInterrupt


def run(work_dir, *hooks, **kwargs):
    """8 iterations, 4 an epoch, each logged."""
    return make_runner(
        work_dir, hooks=[HistoryHook(), *hooks], val_interval=4, val_evaluator=[MeanAP()], **kwargs
    )


def scalars_json(runner):
    """What MMEngine wrote itself, by iteration; the times of validations under their own name."""
    rows = {}
    text = (Path(runner.log_dir) / 'vis_data' / 'scalars.json').read_text()
    for line in map(json.loads, text.splitlines()):
        step = line.pop('step')
        if 'loss' not in line:
            step = 4 * (step + 1)  # an epoch that has not yet ended, of 4 iterations
            line = {name if '/' in name else f'val/{name}': value for name, value in line.items()}
        rows.setdefault(step, {}).update(line)
    return rows


def test_the_table_has_every_scalar_of_the_visualizer(tmp_path):
    runner = run(tmp_path)
    runner.train()
    rows = read_history(tmp_path / 'history.csv')
    assert rows == scalars_json(runner)
    assert list(rows) == list(range(1, 9))
    assert [rows[step].get('coco/segm_mAP') for step in (3, 4, 8)] == [None, 0.125, 0.25]
    assert {'loss', 'loss_cls', 'loss_bbox', 'lr', 'time'} <= rows[1].keys()


def test_the_curves_are_drawn_at_each_validation(tmp_path):
    seen = []

    class Look(Hook):
        priority = 'LOWEST'

        def after_val(self, runner):
            seen.append(cv2.imread(str(tmp_path / 'curves.png')))
            assert list(read_history(tmp_path / 'history.csv')) == list(range(1, runner.iter + 1))

    run(tmp_path, Look()).train()
    first, second = seen
    assert first.shape == second.shape and min(first.shape[:2]) > 500
    assert (first != second).any()
    segm_map = (first == (0x00, 0x5E, 0xD5)).all(-1)
    assert segm_map.any()
    assert not list(tmp_path.glob('*.saving'))


def test_a_resumed_run_goes_on_without_repeating(tmp_path):
    whole = run(tmp_path / 'whole')
    whole.train()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / 'run', Failing(at=6)).train()
    work_dir = tmp_path / 'run'
    before = read_history(work_dir / 'history.csv')
    assert list(before) == [1, 2, 3, 4, 5, 6]

    resumed = run(work_dir, resume=True, load_from=str(work_dir / 'iter_5.pth'))
    resumed.train()
    rows = read_history(work_dir / 'history.csv')
    assert list(rows) == list(range(1, 9))
    assert all(rows[step] == before[step] for step in range(1, 6))
    assert rows[6]['time'] != before[6]['time']  # measured anew
    assert rows[8] == scalars_json(resumed)[8]
    assert not list(work_dir.glob('history_before*'))


def test_the_table_of_an_earlier_training_is_kept(tmp_path):
    run(tmp_path).train()
    earlier = (tmp_path / 'history.csv').read_text()
    second = run(tmp_path, max_epochs=1)
    second.train()
    (kept,) = tmp_path.glob('history_before_*.csv')
    assert kept.read_text() == earlier and str(kept) in log_of(second)
    assert list(read_history(tmp_path / 'history.csv')) == [1, 2, 3, 4]


def test_a_table_that_cannot_be_continued_is_kept(tmp_path):
    run(tmp_path, max_epochs=1).train()
    (tmp_path / 'history.csv').write_text('patient,age\n1,50\n')
    resumed = run(tmp_path, resume=True, load_from=str(tmp_path / 'iter_4.pth'))
    resumed.train()
    (kept,) = tmp_path.glob('history_before_*.csv')
    assert kept.read_text() == 'patient,age\n1,50\n'
    assert 'history.csv, line 2: not a column "step"' in log_of(resumed)
    assert list(read_history(tmp_path / 'history.csv'))[-4:] == [5, 6, 7, 8]


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    full, original = iter([True, True, True] + [False] * 100), os.replace

    def replace(source, target):
        if Path(target).name == 'history.csv' and next(full):
            raise OSError(errno.ENOSPC, 'No space left on device', str(source))
        original(source, target)

    monkeypatch.setattr('swin_ext.utils.files.os.replace', replace)
    runner = run(tmp_path, max_epochs=1)
    runner.train()
    assert log_of(runner).count('HistoryHook: OSError: [Errno 28] No space left on device') == 1
    assert list(read_history(tmp_path / 'history.csv')) == [1, 2, 3, 4]


def test_curves_that_cannot_be_drawn_do_not_end_the_training(tmp_path, monkeypatch):
    from swin_ext.visualization import curves

    monkeypatch.setattr(curves, 'plot_map', lambda *args: 1 / 0)
    runner = run(tmp_path)
    runner.train()
    assert log_of(runner).count('HistoryHook: ZeroDivisionError') == 1
    assert runner.iter == 8 and not (tmp_path / 'curves.png').exists()


def test_validation_alone_leaves_no_table(tmp_path):
    run(tmp_path).val()
    assert not (tmp_path / 'history.csv').exists()
