"""Segment cardiac MR studies: masks, figures and a page from a folder.

    python tools/segment.py STUDY --out results
    python tools/segment.py TREE_OF_STUDIES --model inference_mask_rcnn.pth --out results

`--help` says what goes in and what comes out.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.inference.command import main

    sys.exit(main())
