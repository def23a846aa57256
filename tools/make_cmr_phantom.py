"""Write a synthetic short-axis cardiac MR (CMR) data set in COCO format.

Clinical CMR may not be shipped with the project, so its demo runs on simulated patients: a left
ventricle (LV), the myocardial ring around it (Myo) and the right ventricle (RV) in a thorax with
balanced steady-state free precession (bSSFP) contrast, cut into slices from base to apex at end
diastole (ED) and end systole (ES).

    python tools/make_cmr_phantom.py --out data/cmr_phantom --patients 40 --seed 0
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # drawing needs no mmdet
    from swin_ext.conversion.phantom_command import main

    sys.exit(main())
