import csv
import os
import random
import signal
import time

import pytest

from swin_ext.engine.hooks.history import History, read_history


def read_table(path):
    """Rows as the standard library reads them, all cells as text."""
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_rows_columns_and_values_survive(tmp_path):
    path = tmp_path / 'history.csv'
    history = History(path)
    history.add(20, {'loss': 0.1 + 0.2, 'epoch': 1})
    history.add(20, {'rank0/gpu, all': 3})
    history.flush()
    history.add(40, {'loss': float('nan'), 'epoch': 2})
    history.flush()
    assert read_table(path) == [
        {'step': '20', 'loss': '0.30000000000000004', 'epoch': '1', 'rank0/gpu, all': '3'},
        {'step': '40', 'loss': 'nan', 'epoch': '2', 'rank0/gpu, all': ''},
    ]
    rows = read_history(path)
    assert rows[20] == {'loss': 0.1 + 0.2, 'epoch': 1, 'rank0/gpu, all': 3}
    assert isinstance(rows[20]['epoch'], int) and rows[40]['loss'] != rows[40]['loss']


def test_lines_are_appended_and_the_rest_is_written_anew(tmp_path):
    path = tmp_path / 'history.csv'
    history = History(path)

    def written(step, **scalars):
        before = path.stat().st_ino if path.exists() else None
        history.add(step, scalars)
        history.flush()
        assert not list(tmp_path.glob('*.saving'))
        return 'appended' if path.stat().st_ino == before else 'anew'

    assert written(1, loss=4.0) == 'anew'
    assert written(2, loss=3.0) == 'appended'
    assert written(2, segm=0.5) == 'anew'
    assert written(3, segm=0.5) == 'appended'
    assert written(1, lr=0.5) == 'anew'
    path.unlink()
    assert written(4, loss=1.0) == 'anew'
    assert read_table(path) == [
        dict(step='1', loss='4.0', lr='0.5', segm=''),
        dict(step='2', loss='3.0', lr='', segm='0.5'),
        dict(step='3', loss='', lr='', segm='0.5'),
        dict(step='4', loss='1.0', lr='', segm=''),
    ]
    assert history.records()[1] == dict(step=2, loss=3.0, segm=0.5)


def test_what_could_not_be_written_is_written_later(tmp_path):
    path = tmp_path / 'folder' / 'history.csv'
    path.parent.write_text('where the folder should be')
    history = History(path)
    history.add(1, dict(loss=1.0))
    with pytest.raises(OSError):
        history.flush()
    path.parent.unlink()
    history.add(2, dict(loss=2.0))
    history.flush()
    assert read_history(path) == {1: dict(loss=1.0), 2: dict(loss=2.0)}


@pytest.mark.parametrize('end', ['3', '30,0.12', '30,0.125,'])
def test_a_line_without_its_end_is_left_out(tmp_path, end):
    path = tmp_path / 'history.csv'
    path.write_text('step,loss,lr\n10,1.5,2\n20,,3\n' + end)
    assert read_history(path) == {10: dict(loss=1.5, lr=2), 20: dict(lr=3)}


@pytest.mark.parametrize(
    'text, message',
    [
        ('loss,lr\n1,2\n', 'line 2: not a column "step"'),
        ('step,loss\n1,2\n3,4,5\n', 'line 3: not a column "step" and as many'),
        ('step,loss\n1,high\n', 'line 2: could not convert'),
        ('step,loss\n1.5,1\n', 'line 2: invalid literal'),
    ],
)
def test_another_table_is_refused(tmp_path, text, message):
    (tmp_path / 'history.csv').write_text(text)
    with pytest.raises(ValueError, match=f'history.csv, {message}'):
        read_history(tmp_path / 'history.csv')


def write_until_killed(path):
    history = History(path, read_history(path) if path.exists() else None)
    step = max(history.rows, default=0)
    while True:
        step += 1
        history.add(step, {'loss': step / 8, f'column {step // 7}': 1})
        history.flush()


def test_a_kill_at_any_time_costs_no_row_but_the_last(tmp_path):
    """Each process goes on with the table of the one killed before; new columns are frequent."""
    path, rng = tmp_path / 'history.csv', random.Random(0)
    known, num_kills = {}, 0
    while num_kills < 15 or len(known) <= 50:
        num_kills += 1
        child = os.fork()
        if child == 0:
            write_until_killed(path)
        time.sleep(rng.uniform(0.005, 0.06))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rows = read_history(path) if path.exists() else {}
        assert list(rows) == list(range(1, len(rows) + 1))
        assert known.items() <= rows.items()
        for step, row in rows.items():
            assert row == {'loss': step / 8, f'column {step // 7}': 1}
        known = rows
