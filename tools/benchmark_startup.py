"""Time `--help` of each tool as a ratio to `python -c pass`; medians of runs in turns.

python tools/benchmark_startup.py
python tools/benchmark_startup.py --repeats 11
"""

import os
import sys
from pathlib import Path

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'
    from swin_ext.benchmarks.startup import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(lambda: main(['--tools', str(Path(__file__).parent), *sys.argv[1:]])))
