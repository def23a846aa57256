"""Write label maps of a COCO data set, for MMSegmentation.

    python tools/coco2semantic.py data/cmr_phantom
    mim train mmsegmentation configs/upernet/upernet_swin-t_cmr.py \\
        --cfg-options data_root=data/cmr_phantom

Background is 0, the classes follow in the order of the file, and crowds are 255, which is ignored.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # drawing needs no mmdet
    from swin_ext.conversion.semantic_command import main
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
