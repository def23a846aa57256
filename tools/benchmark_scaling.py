"""Measure a step and its all-reduce on processes of this machine; compute them for a cluster.

python tools/benchmark_scaling.py
python tools/benchmark_scaling.py --cluster-step 0.4 --cluster-network 50
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'
    from swin_ext.benchmarks.scaling import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
