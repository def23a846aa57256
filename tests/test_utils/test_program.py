"""Errors that a user can mend end as a short block; others are left alone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from mmengine.registry import Registry
from torch.utils.data import DataLoader, Dataset

from swin_ext.utils.errors import UserError
from swin_ext.utils.program import run_tool, user_error


class ImageError(UserError, ValueError):
    pass


class LabelError(UserError, KeyError):
    pass


class CaseError(UserError):
    """With an `__init__` that torch cannot call again."""

    def __init__(self, case, problem):
        super().__init__(f'case {case}: {problem}')


class Failing(Dataset):
    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 2

    def __getitem__(self, idx):
        raise self.error


def missing_file():
    try:
        open('/nowhere/train.json')
    except OSError as error:
        return error


def not_registered():
    registry = Registry('model', scope='toy')
    registry.register_module(name='SwinBackbone', module=dict)
    try:
        registry.build(dict(type='SwinBackbon'))
    except KeyError as error:
        return error


USER_ERRORS = {
    'value': (ImageError('a.dcm: is cut off.\nGive another.'), 'a.dcm: is cut off.\nGive another.'),
    'key': (LabelError("no label 'LV'"), "no label 'LV'"),
    'own init': (CaseError('SCD1', 'no image'), 'case SCD1: no image'),
    'file': (missing_file(), "No such file or directory: '/nowhere/train.json'"),
    'registry': (not_registered(), "type 'SwinBackbon', which is not in the model registry"),
}
OTHERS = {
    'value': ValueError('shapes differ'),
    'key': KeyError('bbox'),
    'assertion': AssertionError(),
    'runtime': RuntimeError('Caught a cold'),
    'os': OSError(5, 'Input/output error'),
}


def of_a_worker(error):
    """What a data loader raises.

    Its iterator is closed here: the garbage collector, which tells the worker nothing, would wait
    5 s for it, in whatever test it comes.
    """
    iterator = iter(DataLoader(Failing(error), num_workers=1))
    with pytest.raises(Exception, match='in DataLoader worker process') as raised:
        next(iterator)
    iterator._shutdown_workers()
    return raised.value


@pytest.mark.parametrize('error, text', USER_ERRORS.values(), ids=USER_ERRORS)
@pytest.mark.parametrize('place', ['here', 'cause', 'worker'])
def test_what_a_user_can_mend_is_told(error, text, place):
    shown = error
    if place == 'cause':
        shown = RuntimeError('loading failed')
        shown.__cause__ = error
    elif place == 'worker':
        shown = of_a_worker(error)
    name, told = user_error(shown)
    assert name == type(error).__name__
    assert text in told
    assert 'Traceback' not in told and 'File "' not in told


@pytest.mark.parametrize('error', OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize('place', ['here', 'while a user error was handled', 'worker'])
def test_other_errors_are_not(error, place):
    shown = error
    if place == 'while a user error was handled':  # what failed then is a fault of the program
        error.__context__ = ImageError('a.dcm')
    elif place == 'worker':
        shown = of_a_worker(error)
    assert user_error(shown) is None


def test_errors_that_cause_each_other_end():
    first, second = ValueError(), ValueError()
    first.__cause__, second.__cause__ = second, first
    assert user_error(first) is None


PROGRAM = """
import os, sys
from swin_ext.utils.errors import UserError
from swin_ext.utils.program import install_excepthook, run_tool

def main():
    print('half of the output')
    {statement}

if {as_tool}:
    sys.exit(run_tool(main))
sys.excepthook = lambda *args: print('as it was', file=sys.stderr)
install_excepthook()
install_excepthook(*{hooks})
main()
"""
BLOCK = '\nError: a.dcm is cut off.\n({})\n'
HINT = 'UserError; for the traceback, set SWIN_EXT_TRACEBACK=1'


def run_program(statement, as_tool=True, hooks='()', **env):
    code = PROGRAM.format(statement=statement, as_tool=as_tool, hooks=hooks)
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(env, SWIN_EXT_LIGHT='1', PYTHONPATH=':'.join(sys.path)),
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize('as_tool', [True, False], ids=['tool', 'hook'])
@pytest.mark.parametrize('wish', ['', '0'])
def test_the_block_is_all(as_tool, wish):
    env = {'SWIN_EXT_TRACEBACK': wish} if wish else {}
    status, output, error = run_program("raise UserError('a.dcm is cut off.')", as_tool, **env)
    assert (status, output) == (1, 'half of the output\n')
    assert error == BLOCK.format(HINT)


@pytest.mark.parametrize('as_tool', [True, False], ids=['tool', 'hook'])
def test_the_traceback_is_shown_on_request(as_tool):
    status, _, error = run_program(
        "raise UserError('a.dcm is cut off.') from OSError('disk')", as_tool, SWIN_EXT_TRACEBACK='1'
    )
    assert status == 1
    assert error.startswith('OSError: disk\n') and 'Traceback (most recent call last)' in error
    assert error.endswith(BLOCK.format('UserError'))


@pytest.mark.parametrize(
    'statement, status',
    [
        ('return None', 0),
        ('return 3', 3),
        ("__import__('argparse').ArgumentParser().parse_args(['--no'])", 2),
        ('raise KeyboardInterrupt', 130),
        ('sys.exit(4)', 4),
        ("raise ValueError('shapes')", 1),
    ],
)
def test_exit_status_of_tools(statement, status):
    found, _, error = run_program(statement)
    assert found == status
    assert ('Traceback' in error) == ('ValueError' in statement)


def test_other_exceptions_go_to_the_hook_that_was_there():
    status, _, error = run_program("raise ValueError('shapes')", as_tool=False)
    assert (status, error) == (1, 'as it was\n')


def test_the_log_has_the_traceback(tmp_path):
    log = tmp_path / 'run.log'
    _, _, error = run_program(
        "raise UserError('a.dcm is cut off.')",
        as_tool=False,
        hooks=f"(lambda text: open({str(log)!r}, 'w').write(text) and {str(log)!r},)",
    )
    hint = f'UserError; the traceback is in {log}; on the terminal with SWIN_EXT_TRACEBACK=1'
    assert error == BLOCK.format(hint)
    assert 'line 12, in <module>' in log.read_text() or 'in main' in log.read_text()


def test_one_of_several_processes_tells():
    statement = "raise UserError('a.dcm is cut off.')"
    _, _, error = run_program(
        statement, as_tool=False, hooks='(lambda text: None, lambda error: False)'
    )
    assert error == ''


def test_it_is_light():
    code = 'import sys, json; import swin_ext.utils.program; print(json.dumps(list(sys.modules)))'
    done = subprocess.run(
        [sys.executable, '-c', code],
        env=dict(SWIN_EXT_LIGHT='1', PYTHONPATH=':'.join(sys.path)),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert {'torch', 'mmengine', 'numpy'}.isdisjoint(json.loads(done.stdout))


def test_a_tool_in_this_process_returns_its_status(capsys):
    def main():
        raise LabelError("no label 'LV'")

    assert run_tool(main) == 1
    assert capsys.readouterr().err.startswith("\nError: no label 'LV'\n(LabelError; ")
