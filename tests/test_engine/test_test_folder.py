"""Where a test writes."""

from __future__ import annotations

import sys
import types

import pytest
from mmengine.config import Config

from swin_ext.engine.test_folder import folder_of_run

DEFAULT = './work_dirs/mine'


@pytest.mark.parametrize(
    'script, work_dir, arguments, checkpoint, beside',
    [
        ('test.py', DEFAULT, [], 'run/iter_1.pth', True),
        ('test.py', DEFAULT, ['--cfg-options', 'a=1'], 'run/iter_1.pth', True),
        ('test.py', DEFAULT, ['--work-dir', DEFAULT], 'run/iter_1.pth', False),
        ('test.py', DEFAULT, [f'--work-dir={DEFAULT}'], 'run/iter_1.pth', False),
        ('test.py', DEFAULT, ['--wo', DEFAULT], 'run/iter_1.pth', False),
        ('test.py', 'elsewhere', [], 'run/iter_1.pth', False),  # the config says so
        ('test.py', DEFAULT, [], 'https://host/iter_1.pth', False),
        ('test.py', DEFAULT, [], 'run/missing.pth', False),
        ('train.py', DEFAULT, [], 'run/iter_1.pth', False),
        (None, DEFAULT, [], 'run/iter_1.pth', False),  # a notebook
    ],
)
def test_beside_the_checkpoint_unless_told_otherwise(
    tmp_path, monkeypatch, script, work_dir, arguments, checkpoint, beside
):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'iter_1.pth').touch()
    (tmp_path / 'mine.py').touch()
    main = types.ModuleType('__main__')
    if script:
        main.__file__ = f'/site-packages/mmdet/.mim/tools/{script}'
    monkeypatch.setitem(sys.modules, '__main__', main)
    monkeypatch.setattr(sys, 'argv', [script or '', 'mine.py', checkpoint, *arguments])
    monkeypatch.chdir(tmp_path)
    cfg = Config(dict(work_dir=work_dir, load_from=checkpoint), filename='mine.py')
    assert folder_of_run(cfg) == ('run/test' if beside else work_dir)


def test_a_config_that_is_no_file():
    assert folder_of_run(Config(dict(work_dir='a', load_from='b.pth'))) == 'a'
