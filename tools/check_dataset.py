"""Check the data sets and the model of a config before a GPU hour is spent on it.

    python tools/check_dataset.py configs/mask_rcnn_swin-s_cmr.py \\
        --cfg-options data_root=data/cmr_phantom --out-dir work_dirs/check

prints what is wrong, draws class and size histograms and a contact sheet of every split into the
folder, and ends with exit code 1 if there is an error.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.preflight.command import main

    sys.exit(main())
