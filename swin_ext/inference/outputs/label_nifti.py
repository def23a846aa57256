"""Labels as NIfTI, on the grid of the source: 0 is background and i + 1 is class i."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.inference.study_stack import StudyStack
from swin_ext.utils.files import replacing
from swin_ext.utils.optional import import_optional

LABEL_FILE = 'labels.nii.gz'
# Texts of a header, in which programs note names and dates of patients.
TEXTS = ('descrip', 'aux_file', 'db_name', 'intent_name')


def write_label_nifti(study: SegmentedStudy, stack: StudyStack, folder: Path) -> None:
    """Write `labels.nii.gz`: (columns, rows, slices) or, for a cine, (.., phases); uint8.

    Of a NIfTI source, shape, affines, their codes and units are copied bit by bit; its texts and
    extensions are not. Of DICOM, the affine is that of the frames. Slices that are missing are
    background, so that the others stay in their places.

    Raises:
        OSError: If it cannot be written.
    """
    nibabel = import_optional('nibabel', 'Writing NIfTI')
    grid = label_grid(study, stack)
    if stack.kind == 'nifti':
        source = nibabel.load(next(iter(stack.frames.values())).path)
        is_second = isinstance(source.header, nibabel.nifti2.Nifti2Header)
        kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
        image = kind(grid.reshape(source.shape), None)
        image.header.set_data_shape(source.shape)
        for field in _GEOMETRY:
            image.header[field] = source.header[field]
    else:
        grid = grid[..., 0] if grid.shape[3] == 1 else grid
        image = nibabel.Nifti1Image(grid, None)
        image.header.set_xyzt_units('mm', 'msec' if study.times_ms is not None else 'unknown')
        image.header['pixdim'][1:4] = (
            study.pixel_spacing_mm[1],
            study.pixel_spacing_mm[0],
            study.slice_spacing_mm,
        )
        if study.times_ms is not None and len(study.times_ms) > 1:
            image.header['pixdim'][4] = np.diff(study.times_ms).mean()
        if stack.affine is not None:
            image.set_sform(stack.affine, code='scanner')
            image.set_qform(stack.affine, code='scanner')
    image.header.set_data_dtype(np.uint8)
    image.header.set_intent('label')
    for field in set(TEXTS) & set(image.header.keys()):  # NIfTI-2 lacks one
        image.header[field] = b''
    with replacing(folder / LABEL_FILE) as file:
        # Without the time and the file's name that gzip would note.
        file.write(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))


_GEOMETRY = (
    'pixdim',
    'xyzt_units',
    'qform_code',
    'sform_code',
    'quatern_b',
    'quatern_c',
    'quatern_d',
    'qoffset_x',
    'qoffset_y',
    'qoffset_z',
    'srow_x',
    'srow_y',
    'srow_z',
)


def label_grid(study: SegmentedStudy, stack: StudyStack) -> np.ndarray:
    """Labels uint8 (columns, rows, slice numbers, phases)."""
    phases, _, rows, columns = study.labels.shape
    grid = np.zeros((columns, rows, stack.slice_numbers[-1] + 1, phases), np.uint8)
    grid[:, :, list(stack.slice_numbers)] = study.labels.transpose(3, 2, 1, 0)
    return grid
