"""From clinical files (NIfTI, DICOM, PNG) to COCO JSON, and data sets of simulated patients.

`command` is what `tools/cmr2coco.py` runs. The readers `nifti`, `dicom` and `png` find studies and
read them into `LabelledSlice`s (`study`), which `coco_writer` writes study by study, after
`stack_rules` has made them stacks that can be evaluated. `convert` drives that, in `workers`, into
an `output_folder`, and `coco_merge` joins the studies into the JSON files of the `splits`.

`phantom_command` is what `tools/make_cmr_phantom.py` runs.
"""
