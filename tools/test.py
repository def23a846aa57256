"""mmdet's test script, for `mim test swin_ext CONFIG`, which finds CONFIG in this package."""

import runpy
from pathlib import Path

import mmdet

if __name__ == '__main__':
    script = Path(mmdet.__file__).parent / '.mim' / 'tools' / Path(__file__).name
    runpy.run_path(str(script), run_name='__main__')
