"""Compare configs: trained and tested with equal budget, data and seeds.

    python tools/compare.py configs/mask_rcnn_swin-nano_cmr.py --baseline monai-basicunet \
        --seeds 3 --budget 20min --cfg-options data_root=data/autofd

`--help` says what counts and how it is compared.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.experiments.comparison import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(lambda: main(sys.argv[1:])))
