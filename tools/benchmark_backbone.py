"""Benchmark SwinBackbone against the Swin of mmdet, timm, torchvision and Hugging Face.

    python tools/benchmark_backbone.py --arch small --sizes 224 448 800x1333 --json bench.json

See `--help`.
"""

import os

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.benchmarks.backbone import main

    main()
