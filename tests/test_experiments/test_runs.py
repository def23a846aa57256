"""Plans that must not change, and processes that fail, are interrupted or told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from swin_ext.experiments import runs
from swin_ext.experiments.errors import ExperimentError, RunFailedError
from swin_ext.experiments.runs import Plan, Run, check_plan, execute, write_plan

MADE_OF = dict(folds='2', config='a' * 64)
SUCCEED = 'import pathlib, sys; pathlib.Path(sys.argv[1], "finished.json").write_text("{}")'


@pytest.fixture
def program(monkeypatch):
    """Let runs execute a short program instead of the worker."""

    def use(text):
        def command_of(folder, launcher, weights):
            return [sys.executable, '-c', text, str(folder), launcher, weights]

        monkeypatch.setattr(runs, 'command_of', command_of)

    return use


def make(out, *names):
    made = [Run(name) for name in names]
    for run in made:
        run.folder(out).mkdir(parents=True)
    return made


def test_a_plan_is_read_as_it_was_written(tmp_path):
    assert check_plan(tmp_path, MADE_OF) is None
    plan = Plan(MADE_OF, (Run('fold_0', dict(fold=0)), Run('fold_1', dict(held_out=['a', 'b']))))
    write_plan(tmp_path, plan)
    assert check_plan(tmp_path, dict(MADE_OF)) == plan


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(folds='3'), r'folds: 2 -> 3'),
        (dict(config='b' * 64), r'config: a{12}\.\.\. -> b{12}\.\.\.'),
        (dict(seed='1'), r'seed: nothing -> 1'),
    ],
)
def test_another_plan_is_refused(tmp_path, change, message):
    write_plan(tmp_path, Plan(MADE_OF, ()))
    with pytest.raises(ExperimentError, match=f'of something else:\n  {message}'):
        check_plan(tmp_path, {**MADE_OF, **change})


@pytest.mark.parametrize('text', ['', '{"runs": []}', '[]', '{"made_of": {}, "runs": [{"x": 1}]}'])
def test_a_file_that_is_no_plan(tmp_path, text):
    (tmp_path / runs.PLAN).write_text(text)
    with pytest.raises(ExperimentError, match='is no plan of an experiment'):
        check_plan(tmp_path, MADE_OF)


def test_what_is_finished_stays(tmp_path, program, capsys):
    made = make(tmp_path, 'a', 'b', 'c')
    program(SUCCEED)
    (tmp_path / 'b' / 'finished.json').write_text('as it was')
    execute(made, tmp_path)
    assert all(run.is_finished(tmp_path) for run in made)
    assert (tmp_path / 'b' / 'finished.json').read_text() == 'as it was'
    said = capsys.readouterr().out
    assert '1 of 3 runs are finished already' in said
    assert '[1/2] a: finished' in said and '[2/2] c: finished' in said and 'others take' in said


def test_a_failure_shows_its_log_and_ends_all(tmp_path, program):
    made = make(tmp_path, 'a', 'b')
    program('import sys; print("line", 1); sys.exit("Error: data_root is wrong")')
    with pytest.raises(RunFailedError, match='a failed with status 1(.|\n)*data_root is wrong'):
        execute(made, tmp_path)
    assert not (tmp_path / 'b' / runs.LOG).exists()
    program(SUCCEED)
    execute(made, tmp_path)  # goes on
    assert 'data_root is wrong' in (tmp_path / 'a' / runs.LOG).read_text()


def test_ending_without_a_result_is_a_failure(tmp_path, program):
    made = make(tmp_path, 'a')
    program('print("nothing done")')
    with pytest.raises(RunFailedError, match='a failed with status 0(.|\n)*nothing done'):
        execute(made, tmp_path)


def test_a_run_that_was_preempted_ends_all_with_its_status(tmp_path, program, capsys):
    made = make(tmp_path, 'a', 'b')
    program('raise SystemExit(75)')
    with pytest.raises(SystemExit) as ended:
        execute(made, tmp_path)
    assert ended.value.code == 75  # PreemptionHook's
    assert 'a was told to end and has saved where it is' in capsys.readouterr().out
    assert not (tmp_path / 'b' / runs.LOG).exists()


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGUSR1', 'SIGUSR2'])
def test_signals_reach_the_run(tmp_path, program, name):
    """Which decides what to do: here it ends with the status of one that has saved."""
    made, number = make(tmp_path, 'a'), signal.Signals[name]
    program(
        'import pathlib, signal, sys, time\n'
        f'signal.signal({int(number)}, lambda *_: sys.exit(75))\n'
        'pathlib.Path(sys.argv[1], "ready").touch()\n'
        'time.sleep(60)'
    )

    def send():
        while not (tmp_path / 'a' / 'ready').exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(SystemExit) as ended:
        execute(made, tmp_path)
    thread.join()
    assert ended.value.code == 75
    assert signal.getsignal(number) == before


def test_a_killed_run_is_told_by_its_status(tmp_path, program):
    made = make(tmp_path, 'a')
    program('import os; os.kill(os.getpid(), 9)')
    with pytest.raises(SystemExit) as ended:
        execute(made, tmp_path)
    assert ended.value.code == 128 + 9


def test_help_of_the_worker_needs_no_torch():
    call = [sys.executable, '-X', 'importtime', '-m', 'swin_ext.experiments.worker', '--help']
    env = dict(os.environ, SWIN_EXT_LIGHT='1')
    done = subprocess.run(call, capture_output=True, text=True, env=env)
    assert done.returncode == 0 and 'torch' not in done.stderr
