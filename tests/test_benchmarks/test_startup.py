"""The benchmark sees what a tool imports, and runs each."""

from __future__ import annotations

import pytest

from swin_ext.benchmarks.startup import heavy_imports, main

SCRIPTS = {
    'light': 'import json\n',
    'heavy': 'import sys, types\nsys.modules["torch"] = types.ModuleType("torch")\n',
}


@pytest.fixture
def tools(tmp_path):
    for name, text in SCRIPTS.items():
        (tmp_path / f'{name}.py').write_text(text + 'import sys\nsys.exit(0)\n')
    return tmp_path


def test_what_is_imported_is_seen(tools):
    assert heavy_imports([str(tools / 'light.py'), '--help']) == []
    assert heavy_imports([str(tools / 'heavy.py'), '--help']) == ['torch']


def test_each_tool_has_a_row(tools, capsys):
    assert main(['--tools', str(tools), '--repeats', '1']) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split('  ')[0] for row in rows] == ['python -c pass', 'heavy.py', 'light.py']
    assert [row.split()[-1] for row in rows] == ['-', 'torch', '-']
