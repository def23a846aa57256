"""Files that are written aside by several processes at once."""

from __future__ import annotations

import multiprocessing

import pytest

from swin_ext.utils.files import replacing, replacing_text


def write(opened, path, content):
    with opened(path) as file:
        file.write(content)


@pytest.mark.parametrize(
    ('opened', 'mine', 'other'), [(replacing, b'mine', b'other'), (replacing_text, 'mine', 'other')]
)
def test_two_processes_write_one_file(tmp_path, opened, mine, other):
    path = tmp_path / 'config.py'
    with opened(path) as file:
        file.write(mine)
        process = multiprocessing.get_context('fork').Process(
            target=write, args=(opened, path, other)
        )
        process.start()
        process.join()
        assert process.exitcode == 0
        assert path.read_text() == 'other'
    assert path.read_text() == 'mine'
    assert list(tmp_path.iterdir()) == [path]
