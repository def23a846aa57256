"""What of a run goes to the terminal, and that the log file has all of it."""

from __future__ import annotations

import io
import logging
import re
import sysconfig
import warnings
from pathlib import Path

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner

import swin_ext
from swin_ext.engine.errors import ConnectError
from swin_ext.engine.hooks import TerminalLoggerHook
from swin_ext.engine.run_summary import describe_figures
from swin_ext.engine.runner import SwinExtRunner
from swin_ext.engine.terminal import (
    is_first_to_tell,
    is_upstream,
    keep_short,
    log_file_of,
    log_file_only,
    log_traceback,
    log_warnings,
)
from toy_watched_run import make_runner
from two_ranks import log_of, run_on_two_ranks


@pytest.fixture
def logger(tmp_path):
    """A logger with a terminal and a file, and functions that read both."""
    logger = logging.Logger('toy')
    terminal = io.StringIO()
    file = logging.FileHandler(tmp_path / 'run.log')
    logger.handlers = [logging.StreamHandler(terminal), file]
    logger.handlers[0].setLevel(logging.INFO)
    keep_short(logger)
    logger.shown = terminal.getvalue
    logger.filed = (tmp_path / 'run.log').read_text
    return logger


def test_what_nobody_reads_is_in_the_file_alone(logger):
    logger.info('Config:\nmodel = dict()')
    logger.warning('"FileClient" will be deprecated in future.')
    logger.info('The config is fine')
    assert logger.shown() == 'The config is fine\n'
    assert logger.filed().count('\n') == 4


def test_the_file_alone_for_a_while(logger):
    with pytest.raises(OSError), log_file_only(logger):
        logger.info('hidden')
        raise OSError
    logger.info('shown')
    assert (logger.shown(), logger.filed()) == ('shown\n', 'hidden\nshown\n')


def test_a_while_within_a_while(logger):
    with log_file_only(logger):
        with log_file_only(logger):
            logger.info('inner')
        logger.info('outer')
    assert (logger.shown(), logger.filed()) == ('', 'inner\nouter\n')


def test_filtering_twice_is_filtering_once(logger):
    keep_short(logger)
    assert len(logger.handlers[0].filters) == 1
    logger.handlers[0].filters.clear()
    logger.handlers[0].setLevel(logging.DEBUG)
    keep_short(logger)  # who debugs wants to see all
    assert not logger.handlers[0].filters


@pytest.mark.parametrize(
    'filename, shown',
    [
        (Path(sysconfig.get_path('purelib')) / 'mmengine/optim/scheduler.py', False),
        (Path(sysconfig.get_path('stdlib')) / 'importlib/__init__.py', False),
        ('<frozen importlib._bootstrap>', False),
        (Path(swin_ext.__file__).parent / 'engine/runner.py', True),
        ('/home/me/my_hooks.py', True),
    ],
)
def test_warnings_of_other_packages_are_in_the_file_alone(logger, filename, shown):
    assert is_upstream(str(filename)) == (not shown)
    before = warnings.showwarning
    undo = log_warnings(logger)
    warnings.warn_explicit('it is old', UserWarning, str(filename), 3)
    undo()
    text = f'UserWarning: it is old ({filename}:3)\n'
    assert logger.filed() == text
    assert logger.shown() == (text if shown else '')
    assert warnings.showwarning is before


class Figures(BaseMetric):
    default_prefix = ''

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        warnings.warn_explicit(
            'torch.meshgrid', UserWarning, sysconfig.get_path('purelib') + '/torch/x.py', 5
        )
        figures = {'coco/segm_mAP': 0.5, 'cmr/dice': 0.75}
        for name, dice in (('LV', 0.875), ('Myo', 0.625)):
            figures.update({f'cmr/{name}_dice': dice, f'coco/segm_{name}_precision': dice})
        return figures


def make_quiet_runner(folder, **kwargs):
    runner = make_runner(
        folder, hooks=[], val_interval=4, val_evaluator=[Figures()], log_interval=2, **kwargs
    )
    runner.hooks[:] = [
        TerminalLoggerHook(2) if type(h).__name__ == 'LoggerHook' else h for h in runner.hooks
    ]
    return runner


@pytest.fixture
def terminal(tmp_path, capsys, monkeypatch):
    """What is shown of a run, and the runner; a run writes to stdout before it can be told else."""
    monkeypatch.setattr(SwinExtRunner, '_log_env', Runner._log_env)  # other tests leave it out
    before = warnings.showwarning
    runner = make_quiet_runner(tmp_path)
    runner.train()
    assert warnings.showwarning is before
    return capsys.readouterr().out, runner


def test_a_run_begins_with_a_summary(terminal, tmp_path):
    shown, runner = terminal
    lines = shown.split('\n')
    first = next(i for i, line in enumerate(lines) if '(train)' in line)
    assert first < 12, shown
    summary = dict(re.findall(r'^    (\w+): +(.*)$', shown, re.MULTILINE))
    assert summary['train'] == '16 images in batches of 4; 8 iterations (max_epochs=2)'
    assert summary['val'].endswith('validation every 4 iterations, from 1 on')
    assert summary['classes'] == 'LV, Myo (2)'
    assert summary['model'] == 'Regression; 2 parameters, 2 of them are trained'
    assert summary['outputs'] == str(tmp_path)
    assert Path(summary['log'].split(' ')[0]).resolve() == Path(log_file_of(runner.logger))


def test_a_validation_is_a_few_figures_and_a_table(terminal):
    shown, runner = terminal
    assert shown.count('Validation after iteration') == 2
    assert 'Validation after iteration 4:  coco/segm_mAP: 0.5000  cmr/dice: 0.7500\n' in shown
    assert '| Myo   |   0.625 | 0.625 |' in shown and 'Myo_dice' not in shown
    for name in ('Myo_dice: 0.6250', 'segm_LV_precision: 0.8750'):
        assert len(re.findall(rf'Epoch\(val\).*{name}', log_of(runner))) == 2


def test_noise_is_in_the_log_file(terminal):
    shown, runner = terminal
    for text in ('torch.meshgrid', 'Hooks will be executed', 'System environment', 'Exp name'):
        assert text not in shown
        assert text in log_of(runner)


def test_a_run_that_dies_gives_the_warnings_back(tmp_path):
    before = warnings.showwarning
    runner = make_quiet_runner(tmp_path)
    (hook,) = (h for h in runner.hooks if isinstance(h, TerminalLoggerHook))
    hook.before_run(runner)
    assert warnings.showwarning is not before
    hook.close(runner)
    hook.close(runner)
    assert warnings.showwarning is before


def test_many_classes_and_many_figures():
    classes = [f'class_{i}' for i in range(69)]
    figures = {f'coco/bbox_{name}_precision': 0.5 for name in classes}
    figures.update({'coco/bbox_mAP': 0.25, **{f'mine/{i}': i for i in range(10)}})
    line, *table = describe_figures(figures, classes).split('\n')
    assert line.startswith('coco/bbox_mAP: 0.2500  mine/0: 0') and len(line) < 250
    assert '(2 more in the log file)' in line
    assert len(table) == 2 + 20 + 1 + 1 and table[-1] == '(49 more classes are in the log file)'


def test_figures_of_other_metrics_alone():
    assert describe_figures({'toy/loss': 0.5}, ['LV']) == 'toy/loss: 0.5000'


def test_tracebacks_go_to_the_file_of_the_run(tmp_path, capsys):
    runner = make_quiet_runner(tmp_path)
    capsys.readouterr()
    path = log_traceback('Traceback (most recent call last):\nOSError')
    assert Path(path).resolve() == Path(log_file_of(runner.logger))
    assert 'OSError' in Path(path).read_text()
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'env, first',
    [({}, True), ({'RANK': '0'}, True), ({'RANK': '1'}, False)]
    + [
        ({'SLURM_PROCID': '2'}, False),
        ({'OMPI_COMM_WORLD_RANK': '3'}, False),
    ],
)
def test_before_ranks_are_connected_rank_0_tells(monkeypatch, env, first):
    for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert is_first_to_tell(ValueError()) == first
    assert is_first_to_tell(ConnectError())  # the others may have no part in it


def ask_rank(rank, folder):
    return [is_first_to_tell(ValueError()), is_first_to_tell(ValueError())]


def test_of_connected_ranks_one_tells_whichever_it_is(tmp_path):
    first, second = run_on_two_ranks(ask_rank, tmp_path)
    assert sorted(first + second) == [False, False, False, True]
