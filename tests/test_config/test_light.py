"""Importing the room costs next to nothing."""

import subprocess
import sys


def test_import_brings_neither_torch_nor_mmdet():
    program = (
        "import os, sys; os.environ['SWIN_EXT_LIGHT'] = '1'; import swin_ext.config; "
        "print(*sorted({'torch', 'mmengine', 'mmdet'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ('', '')
