"""Values that arguments may have; apart, as the command line needs them before anything else."""

LAYOUTS = ('acdc', 'mnms', 'emidec')  # of `nifti.LAYOUTS`
PIXELS = ('png8', 'png16', 'none')
INSTANCES = ('class', 'component')
PATIENT_IDS = ('pseudonym', 'folder')
FILLS = ('centres', 'touched')
