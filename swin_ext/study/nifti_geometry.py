"""Geometry of NIfTI volumes: which affine holds, units, spacing along the normal of the slices."""

from __future__ import annotations

import gzip
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.study.geometry import affine_normal, is_plausible, slice_distance
from swin_ext.utils.optional import import_optional

nibabel = import_optional('nibabel', 'Reading NIfTI')

# xyzt_units, bits 0 to 2. Code 0 is 'unknown', which nearly always means mm.
MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}
UNIT_NAMES = {0: 'no unit', 1: 'metres', 2: 'mm', 3: 'micrometres'}
SAME_SIZE = 0.01  # of a voxel's edge: pixdim against sform, rounding of float32 included
RIGHT_ANGLE_COSINE = 0.01
# A slice is this many times thicker than its pixels are wide where the file's axes are exchanged.
COARSE_RATIO = 2.0


@dataclass(frozen=True)
class VolumeGeometry:
    """Grid of a NIfTI volume.

    Args:
        shape: Columns, rows, slices, frames.
        affine_mm: Voxel indices to mm (RAS); None where the header has none.
        spacing_mm: Distance of rows and of columns.
        slice_spacing_mm: Distance of slices along their normal; None if unknown.
        warnings: What was corrected or passed over.
    """

    path: Path
    shape: tuple[int, int, int, int]
    affine_mm: np.ndarray | None
    spacing_mm: tuple[float, float]
    slice_spacing_mm: float | None
    warnings: tuple[str, ...] = ()


def header_path(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Paths with the .hdr and .img of a pair as one, the .hdr."""
    headers = {path.with_suffix('') for path in paths if path.suffix.lower() == '.hdr'}
    return tuple(
        path
        for path in paths
        if path.suffix.lower() != '.img' or path.with_suffix('') not in headers
    )


def open_nifti(path: Path) -> nibabel.Nifti1Pair:
    """A NIfTI file whose voxels are not read yet: .nii, .nii.gz, or either file of a pair.

    Raises:
        StudyError: If it is none, has other than 2 to 4 axes, or an axis without a voxel; axes of
            length 1 behind the third do not count.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = nibabel.load(path)
    except Exception as error:  # nibabel and gzip raise many types on damaged files
        raise StudyError(
            'it cannot be read as NIfTI', 'Export or download it again', path
        ) from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise StudyError('it is no NIfTI file', 'Convert it to NIfTI', path)
    is_single = 'header' not in image.file_map
    if is_single and image.dataobj.offset < image.header.single_vox_offset:
        raise StudyError(
            f'its vox_offset of {image.dataobj.offset} lies within its header',
            'Correct it, or save the volume again',
            path,
        )
    if not 2 <= len(_squeezed(image.shape)) <= 4 or min(image.shape) < 1:
        raise StudyError(
            f'it has shape {image.shape}',
            'Volumes need 2 to 4 axes: columns, rows, slices, frames',
            path,
        )
    return image


def read_geometry(path: Path, spacing_mm: tuple[float, float] | None = None) -> VolumeGeometry:
    """Geometry by a volume's header alone.

    The sform goes before the qform, as the standard has it. Where both are coded, or pixdim is
    set, they must agree on the size of a voxel. Units that make a voxel implausible for a heart
    are corrected, with a warning, to the one that does not.

    Args:
        spacing_mm: Spacing of rows and of columns for headers that carry none.

    Raises:
        StudyError: If the header is damaged or contradicts itself.
    """
    image = open_nifti(path)
    header = _stored_header(image, path)
    shape = (*_squeezed(image.shape), 1, 1)[:4]
    notes: list[str] = []
    with np.errstate(all='ignore'):
        stored = np.abs(np.array(header['pixdim'][1:4], float))
        known = np.isfinite(stored) & (stored > 0)
        affine = _affine(header, stored, known, path, notes)
    if affine is not None:
        columns, rows = np.linalg.norm(affine[:3, :2], axis=0)
        distance = slice_distance(affine)
        if abs(affine[:3, 0] @ affine[:3, 1]) > RIGHT_ANGLE_COSINE * columns * rows:
            raise StudyError(
                'the rows and columns of its affine are not perpendicular',
                'Resample it onto rectangular pixels',
                path,
            )
        if distance < (1 - SAME_SIZE) * np.linalg.norm(affine[:3, 2]):
            notes.append(
                'its affine is sheared; slices are apart by their distance along the normal'
            )
    elif known[:2].all():
        (columns, rows), distance = stored[:2], stored[2] if known[2] else None
    elif spacing_mm is None:
        raise StudyError(
            'its header has no voxel size', 'Give the spacing of the pixels with --spacing-mm', path
        )
    else:
        return VolumeGeometry(path, shape, None, spacing_mm, None, tuple(notes))

    unit = _unit_mm(int(header['xyzt_units']) & 7, rows, columns, distance, shape[2], path, notes)
    rows, columns = float(rows * unit), float(columns * unit)
    distance = None if distance is None else float(distance * unit)
    if affine is not None:
        affine = np.diag([unit, unit, unit, 1]) @ affine
    return VolumeGeometry(path, shape, affine, (rows, columns), distance, tuple(notes))


def check_slice_axis(geometry: VolumeGeometry) -> None:
    """Refuse an image whose slices, the coarse axis, are not counted by its third axis.

    Raises:
        StudyError: If one of the first two axes is much coarser than both others.
    """
    distance, shape = geometry.slice_spacing_mm, geometry.shape
    if distance is None or shape[2] == 1:
        return
    rows, columns = geometry.spacing_mm
    for axis, size, other in ((1, columns, rows), (2, rows, columns)):
        if size >= COARSE_RATIO * max(distance, other):
            raise StudyError(
                f'its slices lie along axis {axis}, which has voxels of {size:.3g} mm, and not '
                f'along axis 3 with {distance:.3g} mm',
                'Exchange the axes, so that the third one counts the slices',
                geometry.path,
            )


def slice_positions_mm(geometry: VolumeGeometry) -> list[float] | None:
    """Position of each slice along the normal of the slices; None without an affine."""
    if geometry.affine_mm is None:
        return None
    normal = affine_normal(geometry.affine_mm)
    first = float(normal @ geometry.affine_mm[:3, 3])
    return [first + z * geometry.slice_spacing_mm for z in range(geometry.shape[2])]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _stored_header(image: nibabel.Nifti1Pair, path: Path) -> nibabel.Nifti1Header:
    """The header as it is stored: nibabel replaces a missing voxel size by 1 with a log entry."""
    holder = image.file_map['header'] if 'header' in image.file_map else image.file_map['image']
    try:
        with nibabel.openers.ImageOpener(holder.filename or image.get_filename()) as file:
            return type(image.header).from_fileobj(file, check=False)
    except (OSError, EOFError, ValueError, gzip.BadGzipFile) as error:
        raise StudyError(
            'it cannot be read as NIfTI', 'Export or download it again', path
        ) from error


def _affine(
    header: nibabel.Nifti1Header,
    stored: np.ndarray,
    known: np.ndarray,
    path: Path,
    notes: list[str],
) -> np.ndarray | None:
    """The affine that holds, in the units of the header; None where none is coded."""
    found = {}
    if header['sform_code'] > 0:
        affine = header.get_sform().astype(float)
        _must_be_regular(affine, 'sform', path)
        found['sform'] = affine
    if header['qform_code'] > 0 and (known.all() or 'sform' not in found):
        if not known.all():
            return None  # pixdim is a part of the qform
        header['pixdim'][1:4] = stored
        header['pixdim'][0] = -1 if header['pixdim'][0] < 0 else 1  # as nifti1_io.c reads it
        try:
            affine = header.get_qform(coded=False).astype(float)
        except Exception as error:  # nibabel raises many types on damaged quaternions
            raise StudyError(
                'its qform is no rotation', 'Restore the affines of the volume', path
            ) from error
        _must_be_regular(affine, 'qform', path)
        found['qform'] = affine
    if 'sform' not in found:
        return found.get('qform')
    sizes = np.linalg.norm(found['sform'][:3, :3], axis=0)
    if np.any(np.abs(sizes - stored)[known] > SAME_SIZE * sizes[known]):
        raise StudyError(
            f'its sform has voxels of {_product(sizes)}, but its pixdim says {_product(stored)}',
            'Correct the wrong one of both',
            path,
        )
    if 'qform' in found and not np.allclose(found['qform'], found['sform'], atol=sizes.min() / 2):
        notes.append('its sform and qform place it differently; the sform is taken')
    return found['sform']


def _must_be_regular(affine: np.ndarray, name: str, path: Path) -> None:
    if not np.isfinite(affine).all():
        raise StudyError(
            f'its {name} has entries that are NaN or infinite',
            'Restore the affines of the volume',
            path,
        )
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not sizes.all() or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-3:
        raise StudyError(f'its {name} is singular', 'Restore the affines of the volume', path)


def _product(sizes: np.ndarray) -> str:
    return ' x '.join(f'{size:.4g}' for size in sizes)


def _unit_mm(
    code: int,
    rows: float,
    columns: float,
    distance: float | None,
    num_slices: int,
    path: Path,
    notes: list[str],
) -> float:
    """Millimetres in one unit of the header."""

    def fits(unit: float) -> bool:
        # The third size of a single slice is a filler in many files.
        third = [distance] if distance is not None and num_slices > 1 else []
        # Sorted, as labels may be stored along other axes than their image.
        sizes = sorted(size * unit for size in (rows, columns, *third))
        return is_plausible(tuple(sizes[:2]), *sizes[2:])

    if code in MM_PER_UNIT and fits(MM_PER_UNIT[code]):
        return MM_PER_UNIT[code]
    plausible = [other for other in (2, 1, 3) if fits(MM_PER_UNIT[other])]
    name = UNIT_NAMES.get(code, f'unit {code}, which the standard does not know,')
    if not plausible:
        raise StudyError(
            f'its voxels of {rows:.4g} x {columns:.4g} (with {name}) are those of no cardiac image',
            'Correct the voxel size or xyzt_units',
            path,
        )
    notes.append(
        f'its header says {name} for voxels of {rows:.4g} x {columns:.4g}, which is implausible '
        f'for a heart; {UNIT_NAMES[plausible[0]]} are taken'
    )
    return MM_PER_UNIT[plausible[0]]
