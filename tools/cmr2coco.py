"""Convert cardiac MR with expert labels from NIfTI, DICOM or PNG into COCO JSON.

    python tools/cmr2coco.py nifti ACDC/training --layout acdc --out data/acdc
    python tools/cmr2coco.py nifti ROOT --image '{patient}/sa_{phase}.nii.gz' \\
        --label '{patient}/seg_sa_{phase}.nii.gz' --labels 1=LV,2=Myo,4=RV --out data/mine
    python tools/cmr2coco.py dicom ROOT --images 'dicom/{patient}' \\
        --contours 'contours/{patient}' --link ROOT/link.csv --labels 1=LV,2=Myo --out data/mine
    python tools/cmr2coco.py dicom ROOT --images '{patient}' --segmentations '{patient}' \\
        --labels 1=LV,2=Myo,3=RV --out data/mine
    python tools/cmr2coco.py png ROOT --image 'images/{patient}_{slice}.png' \\
        --label 'masks/{patient}_{slice}.png' --spacing-mm 1.25 --labels 1=LV --out data/mine

OUT gets train.json, val.json (or one pair per fold), images/, a report of all that was left out,
and a file per finished study, by which a run that was interrupted goes on when it is started again.
Headers that identify a patient are never written. Names of folders and files may identify one,
too, so patients get pseudonyms and no path is written unless --patient-ids folder says that these
names are anonymous. In patterns, {patient} and other {fields} match within one path component, *
anything in it, **/ any folders; image and label belong together where all fields agree.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # converting needs no mmdet
    from swin_ext.conversion.command import main

    sys.exit(main())
