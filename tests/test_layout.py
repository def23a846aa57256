"""The rooms of the package: who may import whom, and that no order of imports matters."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import swin_ext

PACKAGE = Path(swin_ext.__file__).parent

# A room imports from floors below its own, never from a room beside or above it.
FLOORS = (
    ('preflight', 'benchmarks', 'experiments'),
    ('engine', 'inference'),
    ('config',),
    ('models', 'datasets', 'conversion', 'evaluation'),
    ('visualization',),
    ('checkpoint', 'study'),
    ('images', 'coco'),
    ('utils',),
)
APART = 'mmcv_ext'  # is loaded as a part of mmcv
# Kernels are written in the language of a package that PyTorch brings along for CUDA alone.
WITHOUT_TRITON = () if importlib.util.find_spec('triton') else ('triton_kernels', 'triton_launch')
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(
    '.'.join(path.relative_to(PACKAGE.parent).with_suffix('').parts).removesuffix('.__init__')
    for path in PACKAGE.rglob('*.py')
    if APART not in path.parts and '.mim' not in path.parts and path.stem not in WITHOUT_TRITON
)


def room_of(module: str) -> str | None:
    parts = module.split('.')
    return parts[1] if len(parts) > 1 else None


def imported(path: Path) -> set[str]:
    """Full names of what a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(PACKAGE.parent).parent.parts
            base = '.'.join(package[: len(package) - node.level + 1]) if node.level else ''
            module = '.'.join(part for part in (base, node.module) if part)
            names.update(f'{module}.{alias.name}' for alias in node.names)
    return {name for name in names if name.split('.')[0] == 'swin_ext'}


def test_each_folder_is_a_room():
    folders = {path.name for path in PACKAGE.iterdir() if (path / '__init__.py').is_file()}
    assert folders - {APART} <= set(FLOOR_OF)


@pytest.mark.parametrize('room', sorted(FLOOR_OF))
def test_rooms_call_rooms_below_them(room):
    wrong = []
    for path in (PACKAGE / room).rglob('*.py'):
        for name in imported(path):
            other = room_of(name)
            if other in (room, 'version') or (
                other == 'registration' and FLOOR_OF[room] <= FLOOR_OF['engine']
            ):
                continue
            if other not in FLOOR_OF or FLOOR_OF[other] <= FLOOR_OF[room]:
                wrong.append(f'{path.relative_to(PACKAGE)} imports {name}')
    assert not wrong


def test_ops_are_apart():
    for path in (PACKAGE / APART).rglob('*.py'):
        assert {room_of(name) for name in imported(path)} <= {APART}, path


def test_each_module_can_be_imported_first(tmp_path):
    """Each in a process of its own, forked from one that has imported upstream alone.

    A module of a package that imports it itself needs none: packages are imported before.
    """
    program = f"""
import gc, os, sys, traceback
import matplotlib.figure, mmdet.apis, mmdet.datasets, mmdet.evaluation, mmdet.models
import mmengine.runner, monai.metrics, msgspec, nibabel, pydantic, pydicom, torch._dynamo
import torchvision
os.environ['SWIN_EXT_LIGHT'] = '1'  # else all is imported before the module in question
sys.dont_write_bytecode, sys.pycache_prefix = False, {str(tmp_path)!r}  # compiled once
gc.freeze()  # for no process to copy what it but looks at
gc.disable()
imported = set()
for name in {MODULES!r}:
    if name in imported:
        continue
    reading, writing = os.pipe()
    if not os.fork():
        try:
            __import__(name)
        except BaseException:
            traceback.print_exc()
            print('FAILED', name)
            sys.stdout.flush()
            os._exit(1)
        with open(writing, 'w') as file:
            file.write(' '.join(m for m in sys.modules if m.startswith(name + '.')))
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        imported.update(file.read().split())
    os.wait()
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0 and 'FAILED' not in done.stdout, done.stderr[-3000:]
