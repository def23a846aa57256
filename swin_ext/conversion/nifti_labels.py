"""Label volumes on the voxel grid of their images, by the affines of both."""

from __future__ import annotations

import numpy as np

from swin_ext.conversion.study import ConversionError
from swin_ext.study.nifti_geometry import VolumeGeometry, open_nifti
from swin_ext.utils.optional import import_optional

nibabel = import_optional('nibabel', 'Reading NIfTI')

# Grids that differ by less than this fraction of a voxel anywhere are the same: headers keep
# float32 and some programs recompute them from quaternions.
GRID_TOLERANCE_VOXELS = 0.25


def align_label(
    image: VolumeGeometry, label: VolumeGeometry, label_index: int, assume_same_grid: bool
) -> tuple[np.ndarray, int]:
    """Bring a label volume onto the voxel grid of its image.

    Labels stored with flipped or exchanged axes are turned, without interpolation; then both grids
    may differ by whole slices only.

    Returns:
        Labels (columns, rows, label slices) and the image slice of the first label slice.

    Raises:
        ConversionError: If the grids do not match, or a header places its volume nowhere.
    """
    shape, label_path = image.shape[:3], label.path
    array = _read_labels(label, label_index)
    without = [volume.path for volume in (image, label) if volume.affine_mm is None]
    if without:
        if not assume_same_grid:
            raise ConversionError(
                'its header has no affine (sform_code = qform_code = 0), so labels cannot be '
                'paired with images by position',
                'If both volumes have the same slices in the same order, say so with '
                '--assume-same-grid',
                without[0],
            )
        if array.shape != shape:
            raise ConversionError(
                f'its shape {array.shape} is not that of the image {shape}, and --assume-same-grid '
                'needs the same',
                'Restore the affines',
                label_path,
            )
        return array, 0

    to_image = np.linalg.inv(image.affine_mm)
    turn = nibabel.orientations.io_orientation(to_image @ label.affine_mm)
    affine = to_image @ label.affine_mm @ nibabel.orientations.inv_ornt_aff(turn, array.shape)
    array = nibabel.orientations.apply_orientation(array, turn)

    drift = np.abs(affine[:3, :3] - np.eye(3)) @ (np.array(array.shape) - 1)
    if np.any(drift > GRID_TOLERANCE_VOXELS):
        raise ConversionError(
            f'its voxel grid is rotated or scaled against the image: they part by {drift.max():.1f}'
            ' voxels',
            'Resample the labels onto the image with nearest neighbour',
            label_path,
        )
    offset = affine[:3, 3]
    size = nibabel.affines.voxel_sizes(image.affine_mm)
    # Shape first: a cropped label volume is mostly shifted, too.
    if array.shape[:2] != shape[:2]:
        raise ConversionError(
            f'its slices have shape {array.shape[:2]}, but those of the image {shape[:2]}',
            'Resample the labels onto the image, or pair them with the right image',
            label_path,
        )
    first = int(np.rint(offset[2]))
    if first >= shape[2] or first + array.shape[2] <= 0:
        raise ConversionError(
            'by the affines it does not overlap the image volume',
            'Check that both are of the same acquisition; pairing by index would be a guess',
            label_path,
        )
    if np.any(np.abs(offset - [0, 0, first]) > GRID_TOLERANCE_VOXELS):
        shift = ', '.join(f'{v:.2f}' for v in (offset - [0, 0, first]) * size)
        raise ConversionError(
            f'by the affines it is shifted against the image by ({shift}) mm',
            'Resample the labels onto the image, or correct the affine',
            label_path,
        )
    return array, first


def _read_labels(label: VolumeGeometry, frame: int) -> np.ndarray:
    """Labels of a frame as stored, shape (columns, rows, slices)."""
    image = open_nifti(label.path)
    if image.get_data_dtype().kind not in 'buif':
        raise ConversionError(
            f'it holds {image.get_data_dtype()}, but a label is one real number per voxel',
            'Check that it is the label file',
            label.path,
        )
    behind = (0,) * (len(image.shape) - 4)
    try:
        array = np.asanyarray(
            image.dataobj[(..., frame, *behind)] if len(image.shape) > 3 else image.dataobj
        )
    except Exception as error:  # gzip, zlib and nibabel raise many types on damaged files
        raise ConversionError(
            'its labels cannot be read, it may be truncated',
            'Export or download it again',
            label.path,
        ) from error
    return array.reshape(label.shape[:3])
