"""From clinical files (NIfTI, DICOM, PNG) to COCO JSON; run by `tools/cmr2coco.py`.

`nifti`, `dicom` and `png` find studies and read them into `LabelledSlice`s (`study`), which
`coco_writer` writes study by study; `convert` drives that and `coco_merge` joins the studies into
the JSON files of the `splits`.
"""
