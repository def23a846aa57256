"""Place and time: frames of any file type as stacks (orientation, position, spacing, phase).

The only room that knows the geometry of DICOM and NIfTI. `reading.read_study` turns a folder or a
list of files into stacks: `dicom_headers` and `nifti_geometry` read headers, `stacks` orders
slices in space by `geometry`, `phases` in time.
"""
