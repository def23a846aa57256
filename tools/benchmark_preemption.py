"""Measure what a preemption costs: the check in each iteration, and the checkpoint at the end.

python tools/benchmark_preemption.py configs/mask_rcnn_swin-s_cmr.py --folder work_dirs
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.benchmarks.preemption import main

    main(sys.argv[1:])
