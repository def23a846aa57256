"""What a wheel of the package brings, normal and editable."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from mim.commands.search import convert2df
from modelindex.load_model_index import load

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


def test_the_template_of_the_report_is_there(wheel):
    build, archive = wheel
    if build == 'build_wheel':  # an editable one leads to the checkout
        source = ROOT / 'swin_ext/inference/report/page.html'
        assert archive.read('swin_ext/inference/report/page.html') == source.read_bytes()


def test_nothing_runs_when_python_starts(wheel):
    _, archive = wheel
    for name in archive.namelist():
        if name.endswith('.pth'):
            assert 'import' not in archive.read(name).decode()


def test_configs_and_tools_are_where_mim_looks(wheel):
    """In an editable wheel, as files that lead to those of the checkout."""
    _, archive = wheel
    for folder in ('configs', 'tools'):
        tracked = subprocess.run(
            ['git', '-C', ROOT, 'ls-files', f'{folder}/*.py'],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.split()
        assert tracked
        assert {f'swin_ext/.mim/{name}' for name in tracked} <= set(archive.namelist())


def test_the_index_of_models_is_where_mim_looks(wheel, tmp_path):
    """With what it names: in an editable wheel, that is in the checkout."""
    _, archive = wheel
    archive.extractall(tmp_path)
    index = convert2df(load(str(tmp_path / 'swin_ext/.mim/model-index.yml')))
    assert index.loc['mask_rcnn_swin-s_fpn_amp-ms-crop-3x_coco']['coco/mask_ap'] == 43.2
    assert {'mask_rcnn_r50_microplastics', 'cascade_mask_rcnn_swin-b_cmr'} <= set(index.index)


MIM = """
import sys
import click
click.echo = lambda text, **kwargs: print(text)
from mim.commands.run import run
run('swin_ext', 'train', other_args=('--help',))
from mim.utils import get_installed_path, recursively_find
from mmengine.config import Config
root = get_installed_path('swin_ext')
(path,) = recursively_find(root, 'mask_rcnn_swin-nano_cmr.py', followlinks=True)
print(path, Config.fromfile(path).max_epochs)
import swin_ext
print(swin_ext.__file__)
"""


def test_mim_finds_configs_and_tools_of_an_editable_install(wheel, tmp_path):
    build, archive = wheel
    if build != 'build_editable':
        pytest.skip('a normal install has them as files')
    archive.extractall(tmp_path)
    source = next(tmp_path.glob('*.pth')).read_text().strip()
    # As site-packages, which comes before what its .pth files name.
    path = [str(tmp_path), source, *sys.path]
    output = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', MIM],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(path), SWIN_EXT_LIGHT='1'),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert f'Use the script {tmp_path}/swin_ext/.mim/tools/train.py' in output
    assert f'{tmp_path}/swin_ext/.mim/configs/mask_rcnn_swin-nano_cmr.py 1\n' in output
    assert output.splitlines()[-1] == f'{source}/swin_ext/__init__.py'


def test_requires_mmcv_lite_or_the_compiled_mmcv_that_is_there(wheel):
    _, archive = wheel
    (metadata,) = (name for name in archive.namelist() if name.endswith('METADATA'))
    requirements = [
        line
        for line in archive.read(metadata).decode().splitlines()
        if line.startswith('Requires-Dist: mmcv')
    ]
    assert requirements[0] == 'Requires-Dist: mmcv-lite<2.2.0,>=2.0.0'
