"""Measure training steps and gradient exchange on 1, 2, 4 processes, and model more GPUs.

    python tools/benchmark_scaling.py configs/mask_rcnn_swin-nano_cmr.py

Processes exchange by gloo on this machine. Where it has fewer cores than processes, they share
them: the table says how many there are.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.benchmarks.scaling import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(lambda: main(sys.argv[1:])))
