"""`make clean` removes what the Makefile made inside of the project, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MAKEFILE = Path(__file__).parents[1] / 'Makefile'


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / 'project'
    folder.mkdir()
    shutil.copy(MAKEFILE, folder)
    for name, mark in (
        ('.venv', 'pyvenv.cfg'),
        ('data/cmr_phantom', 'phantom.json'),
        ('work_dirs/demo', '.demo'),
        ('configs', 'config.py'),
        ('../outside', 'phantom.json'),
    ):
        (folder / name).mkdir(parents=True)
        (folder / name / mark).touch()
    (folder / 'link').symlink_to(tmp_path / 'outside')
    return folder


def clean(project, *variables):
    done = subprocess.run(
        ['make', 'clean', *variables], cwd=project, capture_output=True, text=True, check=True
    )
    return done.stdout


def remaining(project):
    return {
        name
        for name in ('.venv', 'data/cmr_phantom', 'work_dirs/demo', 'configs', '../outside')
        if (project / name).exists()
    }


@pytest.mark.skipif(not shutil.which('make'), reason='make is not installed')
class TestClean:
    def test_what_was_made_is_removed(self, project):
        clean(project)
        assert remaining(project) == {'configs', '../outside'}

    @pytest.mark.parametrize('data', ['../outside', 'link', 'link/.', '{tmp}/outside'])
    def test_nothing_outside_is_removed(self, project, data):
        text = clean(project, 'DATA=' + data.format(tmp=project.parent))
        assert 'lies outside of this folder: not removed' in text
        assert remaining(project) == {'data/cmr_phantom', 'configs', '../outside'}

    @pytest.mark.parametrize('data', ['.', 'configs', 'no/such/folder', 'data'])
    def test_nothing_else_is_removed(self, project, data):
        clean(project, f'DATA={data}', f'RUN={data}', f'VENV={data}')
        assert len(remaining(project)) == 5
        assert (project / 'Makefile').exists()
