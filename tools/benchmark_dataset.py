"""Load a large annotation file with CMRDataset and with mmdet's CocoDataset: time and memory.

python tools/benchmark_dataset.py
python tools/benchmark_dataset.py --images 20000 --folder /tmp/large
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'
    from swin_ext.benchmarks.dataset import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
