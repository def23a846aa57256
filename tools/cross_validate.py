"""Cross-validate a config, with patients held out together.

    python tools/cross_validate.py configs/mask_rcnn_swin-nano_cmr.py --folds 5 \
        --cfg-options data_root=data/autofd max_epochs=30

`--help` says what is split, and what is written.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.experiments.cross_validation import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(lambda: main(sys.argv[1:])))
