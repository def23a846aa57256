"""Convert cardiac MR with expert labels from NIfTI, DICOM or PNG into COCO JSON.

    python tools/cmr2coco.py nifti ACDC/training --layout acdc --out data/acdc

`--help` has an example of every format.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # converting needs no mmdet
    from swin_ext.conversion.command import main

    sys.exit(main())
