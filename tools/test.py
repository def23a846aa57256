"""mmdet's test script, for `mim test swin_ext CONFIG`, which finds CONFIG in this package.

Errors that a user can mend end with a short block; SWIN_EXT_TRACEBACK=1 shows the traceback, too.
"""

import os
from pathlib import Path

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.utils.upstream_script import run_mmdet_script

    run_mmdet_script(Path(__file__).name)
