"""How the ops get into mmcv: names, refusals, and who wins against a compiled mmcv."""

from __future__ import annotations

import ast
import runpy
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

import mmcv._ext
import pytest
import torch
from mmcv.ops import carafe

SHIM = Path(__file__).parents[2] / 'swin_ext' / 'mmcv_ext' / '_ext.py'


def requested_names() -> set[str]:
    """Every name in the calls ``ext_loader.load_ext('_ext', [names])`` of mmcv/ops/*.py."""
    names = set()
    for file in (Path(mmcv.__file__).parent / 'ops').glob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext':
                names.update(ast.literal_eval(node.args[1]))
    return names


def test_knows_exactly_the_names_that_mmcv_requests():
    requested = requested_names()
    assert len(requested) == 112  # of mmcv 2.1.0
    assert {name for name in requested if callable(getattr(mmcv._ext, name))} == requested
    implemented = {
        name
        for name, value in vars(mmcv._ext.ops).items()
        if callable(value) and not name.startswith('_')
    }
    assert implemented.isdisjoint(mmcv._ext.UNIMPLEMENTED)
    assert implemented | mmcv._ext.UNIMPLEMENTED == requested


def test_unimplemented_op_says_how_to_get_it():
    with pytest.raises(
        NotImplementedError,
        match=r"'carafe_forward' .* `mim install mmcv==2.1.0` .* MMCV_WITH_OPS=1",
    ):
        carafe(torch.zeros(1, 1, 4, 4), torch.zeros(1, 9, 8, 8), 3, 1, 2)


@pytest.mark.parametrize('name', ['nms_forward', 'carafe', '__wrapped__', '__all__'])
def test_other_names_are_no_attributes(name):
    with pytest.raises(AttributeError, match=f"module 'mmcv._ext' has no attribute '{name}'"):
        getattr(mmcv._ext, name)


def test_compiled_extension_wins(tmp_path):
    # Any shared object will do: it is only looked for.
    compiled = tmp_path / f'_ext{EXTENSION_SUFFIXES[0]}'
    shutil.copy(SHIM, tmp_path / '_ext.py')
    assert PathFinder.find_spec('_ext', [str(tmp_path)]).origin == str(tmp_path / '_ext.py')
    shutil.copy(torch._C.__file__, compiled)
    PathFinder.invalidate_caches()
    assert PathFinder.find_spec('_ext', [str(tmp_path)]).origin == str(compiled)


def test_installed_file_is_the_one_of_this_repository():
    assert Path(mmcv._ext.__file__).read_text(encoding='utf-8') == SHIM.read_text(encoding='utf-8')


def test_loading_the_ops_does_not_import_swin_ext():
    loaded = subprocess.run(
        [sys.executable, '-c', 'import sys, mmcv.ops; print(*sys.modules)'],
        cwd=SHIM.parents[2],
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout.split()
    assert 'mmcv._ext.roi' in loaded
    assert not [name for name in loaded if name.split('.')[0] in ('swin_ext', 'mmdet')]


def test_without_swin_ext_mmcv_is_as_if_without_ops(monkeypatch):
    monkeypatch.setitem(sys.modules, 'swin_ext', None)  # what Python calls not found
    with pytest.raises(ModuleNotFoundError, match=r'_ext.py needs swin_ext, .* reinstall it'):
        runpy.run_path(str(SHIM))
