"""Reading images must be cheap to import: the converter and `--help` need no network."""

from __future__ import annotations

import os
import subprocess
import sys


def test_reading_imports_neither_torch_nor_mmdet():
    program = (
        'import sys, swin_ext.images.reading, swin_ext.images.preprocessing\n'
        "heavy = {'torch', 'mmdet', 'mmcv', 'mmengine', 'pydicom', 'nibabel'}\n"
        'sys.exit(str(heavy & set(sys.modules) or ""))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        env={**os.environ, 'SWIN_EXT_LIGHT': '1'},
        capture_output=True,
        text=True,
    )
    assert not done.stderr.strip(), done.stderr
