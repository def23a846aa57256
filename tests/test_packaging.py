"""What a wheel of the package brings, normal and editable."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module', params=['build_wheel', 'build_editable'])
def wheel(request, tmp_path_factory):
    """Name of the build and the opened wheel."""
    folder = tmp_path_factory.mktemp('wheel')
    source = folder / 'source'
    subprocess.run(
        ['git', '-C', ROOT, 'checkout-index', '--all', f'--prefix={source}/'], check=True
    )
    script = (
        f'from setuptools import build_meta; print(build_meta.{request.param}({str(folder)!r}))'
    )
    output = subprocess.run(
        [sys.executable, '-c', script], cwd=source, check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    with zipfile.ZipFile(folder / output.split()[-1]) as archive:
        yield request.param, archive


def test_ops_are_installed_beside_mmcv_and_recorded(wheel):
    _, archive = wheel
    source = (ROOT / 'swin_ext/mmcv_ext/_ext.py').read_bytes()
    assert archive.read('mmcv/_ext.py') == source
    (record,) = (name for name in archive.namelist() if name.endswith('RECORD'))
    # pip removes what is recorded
    assert any(line.startswith('mmcv/_ext.py,') for line in archive.read(record).decode().split())


def test_nothing_runs_when_python_starts(wheel):
    _, archive = wheel
    for name in archive.namelist():
        if name.endswith('.pth'):
            assert 'import' not in archive.read(name).decode()


def test_configs_and_tools_are_where_mim_looks(wheel):
    build, archive = wheel
    if build == 'build_editable':
        pytest.skip('an editable install uses the checkout')
    for folder in ('configs', 'tools'):
        tracked = subprocess.run(
            ['git', '-C', ROOT, 'ls-files', f'{folder}/*.py'],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        assert tracked
        assert {f'swin_ext/.mim/{name}' for name in tracked} <= set(archive.namelist())


def test_requires_mmcv_lite_or_the_compiled_mmcv_that_is_there(wheel):
    _, archive = wheel
    (metadata,) = (name for name in archive.namelist() if name.endswith('METADATA'))
    requirements = [
        line
        for line in archive.read(metadata).decode().splitlines()
        if line.startswith('Requires-Dist: mmcv')
    ]
    assert requirements[0] == 'Requires-Dist: mmcv-lite<2.2.0,>=2.0.0'
