"""Benchmark a whole Swin Mask R-CNN against that of mmdet and of torchvision.

    python tools/benchmark_detector.py --arch small --sizes 800x1333 --json bench.json

See `--help`.
"""

import os

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.benchmarks.detector import main

    main()
