"""Find and read image and label volumes in NIfTI; slices are paired by their affines."""

from __future__ import annotations

import configparser
import csv
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swin_ext.conversion.patterns import pair_paths
from swin_ext.conversion.pixels import read_stack
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study, sha256_of

try:
    import nibabel
    from nibabel import orientations
except ImportError as error:
    raise ImportError('Reading NIfTI needs the package nibabel: pip install nibabel') from error

# Grids that differ by less than this fraction of a voxel anywhere are the same: headers keep
# float32 and some programs recompute them from quaternions.
GRID_TOLERANCE_VOXELS = 0.25
MM_PER_UNIT = {'meter': 1000.0, 'micron': 0.001}
PHASE_IN_NAME = re.compile(r'(?:^|[_\-.])(ED|ES)(?=[_\-.]|$)', re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """Where a published data set keeps its volumes and which label value means what."""

    image: str
    label: str
    labels: str


# ACDC: Bernard et al., 2018, https://doi.org/10.1109/TMI.2018.2837502;
# M&Ms: Campello et al., 2021, https://doi.org/10.1109/TMI.2021.3090082;
# EMIDEC: Lalande et al., 2020, https://doi.org/10.3390/data5040089. Its infarct (3) and no-reflow
# (4) lie within the myocardium.
LAYOUTS = dict(
    acdc=Layout(
        '**/{patient}/{patient}_frame{frame}.nii*',
        '**/{patient}/{patient}_frame{frame}_gt.nii*',
        '3=LV,2=Myo,1=RV',
    ),
    mnms=Layout(
        '**/{patient}/{patient}_sa.nii*', '**/{patient}/{patient}_sa_gt.nii*', '1=LV,2=Myo,3=RV'
    ),
    emidec=Layout(
        '**/{patient}/Images/{patient}.nii*',
        '**/{patient}/Contours/{patient}.nii*',
        '1=LV,2=Myo,3=Myo,4=Myo',
    ),
)


@dataclass(frozen=True)
class VolumePair:
    """Image and label files of one point in time, or of several in 4-D files.

    Args:
        frames: Index in the fourth axis by phase, for 4-D files.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...]
    phase: str | None = None
    frame: str | None = None
    frames: tuple[tuple[str, int], ...] | None = None


class ChosenFrame(NamedTuple):
    """A point in time: its phase and place in the cycle, and its index in image and label."""

    phase: str | None
    frame: int | None
    image_index: int
    label_index: int

    @property
    def name(self) -> str:
        if self.phase is None and self.frame is None:
            return ''
        return f'{self.phase or f"frame{self.frame:02d}"}_'


@dataclass(frozen=True)
class NiftiStudy(Study):
    """All volumes of a patient.

    Args:
        info_cfg: ACDC's file that names the frames of ED and ES, if the layout has one.
        assume_same_grid: Pair slices by index where headers have no affine.
    """

    window = 'study'

    pairs: tuple[VolumePair, ...] = ()
    info_cfg: Path | None = None
    assume_same_grid: bool = False

    def source_files(self) -> list[Path]:
        return [
            *(path for pair in self.pairs for path in pair.images),
            *(path for pair in self.pairs for path in pair.labels),
            *([self.info_cfg] if self.info_cfg else []),
        ]

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        phase_of_frame = read_info_cfg(self.info_cfg) if self.info_cfg else {}
        for pair in self.pairs:
            image = open_nifti(self._only(pair.images, 'image'))
            label = open_nifti(self._only(pair.labels, 'label'))
            sha256 = sha256_of(path_of(image))
            for chosen in choose_frames(image, label, pair, phase_of_frame):
                yield from self._read_volume(image, label, sha256, chosen, labels)

    def _only(self, paths: tuple[Path, ...], kind: str) -> Path:
        if not paths:
            raise ConversionError(
                f'it has an image or label volume without its counterpart: no {kind} file',
                f'Check the --{kind} pattern, add the file, or leave the study out',
                next(iter(self.source_files()), self.root / self.patient),
            )
        if len(paths) > 1:
            raise ConversionError(
                f'{len(paths)} files match the --{kind} pattern for one volume',
                'Make the pattern narrower, or move copies away: '
                + ', '.join(str(path.relative_to(self.root)) for path in paths),
                paths[0].parent,
            )
        return paths[0]

    def _read_volume(
        self, image, label, sha256: str, chosen: ChosenFrame, labels: LabelMap
    ) -> Iterator[LabelledSlice]:
        rows, columns, depth = voxel_size_mm(image, self.spacing_mm)
        label_map, first = align_label(image, label, chosen.label_index, self.assume_same_grid)
        label_map = labels.check(label_map, path_of(label))
        stack = read_stack(path_of(image), chosen.image_index)
        outside = [
            z
            for z in range(label_map.shape[2])
            if label_map[:, :, z].any() and not 0 <= z + first < len(stack)
        ]
        if outside:
            raise ConversionError(
                f'{len(outside)} labelled slices lie outside the image volume by the affines',
                f'Check that it belongs to {path_of(image).name}',
                path_of(label),
            )
        if not label_map.any():
            raise ConversionError(
                'it has no labelled voxel'
                + f' in frame {chosen.label_index}' * bool(chosen.label_index),
                'Check that it is the label file and of the right frame',
                path_of(label),
            )
        for z, pixels in enumerate(stack):
            inside = 0 <= z - first < label_map.shape[2]
            # NIfTI's first axis runs along the rows of the image, its second down the columns.
            masks = labels.masks(label_map[:, :, z - first].T) if inside else {}
            yield LabelledSlice(
                name=f'{chosen.name}z{z:02d}',
                image=pixels,
                masks=masks,
                source=path_of(image),
                sha256=sha256,
                spacing_mm=(rows, columns),
                slice_spacing_mm=depth,
                slice=z,
                phase=chosen.phase,
                frame=chosen.frame,
                slice_index=z,
                frame_index=chosen.image_index,
                window_over=stack,
            )


def find_studies(
    root: Path,
    layout: str,
    image: str | None,
    label: str | None,
    frames: dict[str, int] | None = None,
    frames_csv: Path | None = None,
    spacing_mm: tuple[float, float] | None = None,
    assume_same_grid: bool = False,
) -> list[NiftiStudy]:
    """Patients with their volumes.

    Args:
        layout: A key of `LAYOUTS`, or 'generic' with patterns `image` and `label`, see
            `patterns.compile_pattern`.
        frames: Fourth index by phase, for generic 4-D files.
        frames_csv: M&Ms' table of ED and ES frames; by default the one table in `root`.

    Raises:
        ValueError: If the patterns or the table cannot be used.
    """
    if layout != 'generic':
        image, label = LAYOUTS[layout].image, LAYOUTS[layout].label
    table = read_frames_csv(frames_csv or find_frames_csv(root)) if layout == 'mnms' else {}
    pairs, folders = defaultdict(list), {}
    for fields, images, labels in pair_paths(root, image, label):
        patient = fields['patient']
        folders[patient] = (images or labels)[0].parent
        chosen = table.get(patient) if layout == 'mnms' else frames
        pairs[patient].append(
            VolumePair(
                tuple(images),
                tuple(labels),
                fields.get('phase') or phase_in_name(images),
                fields.get('frame'),
                tuple(chosen.items()) if chosen else None,
            )
        )
    return [
        NiftiStudy(
            patient,
            root,
            spacing_mm,
            tuple(volumes),
            folders[patient] / 'Info.cfg' if layout == 'acdc' else None,
            assume_same_grid,
        )
        for patient, volumes in sorted(pairs.items())
    ]


def phase_in_name(images: list[Path]) -> str | None:
    """'ED' or 'ES' where the file name says so between separators, as in sa_ED.nii.gz."""
    found = PHASE_IN_NAME.search(images[0].name) if images else None
    return found.group(1).upper() if found else None


def find_frames_csv(root: Path) -> Path:
    tables = sorted(root.glob('*.csv'))
    if len(tables) != 1:
        raise ValueError(
            f'{root} has {len(tables)} CSV files; name the one with the columns '
            "'External code', 'ED' and 'ES' by --frames-csv"
        )
    return tables[0]


def read_frames_csv(path: Path) -> dict[str, dict[str, int]]:
    """Frame index (from 0) of ED and ES by patient, from M&Ms' table.

    Rows of patients without labels have no frames, and are passed over.
    """
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows = list(csv.DictReader(file))
        return {
            row['External code']: dict(ED=int(float(row['ED'])), ES=int(float(row['ES'])))
            for row in rows
            if row['ED'].strip() and row['ES'].strip()
        }
    except (KeyError, ValueError, AttributeError, OSError, csv.Error) as error:
        raise ValueError(
            f"{path}: needs columns 'External code', 'ED' and 'ES' with whole numbers "
            f'({type(error).__name__}: {error})'
        ) from error


def read_info_cfg(path: Path) -> dict[int, str]:
    """Phase by frame number (from 1), from ACDC's `Info.cfg` of lines `key: value`."""
    parser = configparser.ConfigParser()
    try:
        parser.read_string('[info]\n' + path.read_text(encoding='utf-8'))
        return {parser.getint('info', phase): phase for phase in ('ED', 'ES')}
    except (OSError, ValueError, configparser.Error) as error:
        raise ConversionError(
            'it does not say which frames are ED and ES',
            'Restore the lines "ED: 1" and "ES: 12" of the data set',
            path,
        ) from error


def open_nifti(path: Path) -> nibabel.Nifti1Pair:
    """Header of a NIfTI file; axes of length 1 behind the third are dropped later.

    Raises:
        ConversionError: If it is none or has other than 2 to 4 axes.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            image = nibabel.load(path)
    except Exception as error:  # nibabel and gzip raise many types on damaged files
        raise ConversionError(
            'it cannot be read as NIfTI', 'Export or download it again', path
        ) from error
    if not isinstance(image, nibabel.Nifti1Pair):
        raise ConversionError('it is no NIfTI file', 'Convert it to NIfTI', path)
    if not 2 <= len(_squeezed(image.shape)) <= 4:
        raise ConversionError(
            f'it has shape {image.shape}',
            'Volumes need 2 to 4 axes: columns, rows, slices, frames',
            path,
        )
    return image


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _grid_shape(image) -> tuple[int, int, int]:
    return (*image.shape[:3], 1)[:3]


def _num_frames(image) -> int:
    shape = _squeezed(image.shape)
    return shape[3] if len(shape) == 4 else 1


def path_of(image: nibabel.Nifti1Pair) -> Path:
    return Path(image.get_filename())


def choose_frames(
    image, label, pair: VolumePair, phase_of_frame: dict[int, str]
) -> list[ChosenFrame]:
    """What is converted of a pair of volumes; `phase_of_frame` serves 3-D files with a number.

    Raises:
        ConversionError: If 4-D files lack a choice of frames, or a chosen frame.
    """
    num_image, num_label = _num_frames(image), _num_frames(label)
    if num_label not in (1, num_image):
        raise ConversionError(
            f'it has {num_image} frames, but its label volume {num_label}',
            'Labels need one frame, or one for each of the image',
            path_of(image),
        )
    if num_image == 1:
        frame = int(pair.frame) if pair.frame else None
        return [ChosenFrame(pair.phase or phase_of_frame.get(frame), frame, 0, 0)]
    if not pair.frames:
        raise ConversionError(
            f'it has {num_image} frames and nothing says which ones to convert',
            'Choose them with --frames, as in --frames ED=0,ES=9, or for M&Ms in the table of '
            'frames',
            path_of(image),
        )
    outside = [index for _, index in pair.frames if index >= num_image]
    if outside or (num_label == 1 and len(pair.frames) > 1):
        raise ConversionError(
            f'it has {num_image} frames (labels: {num_label}), but asked for are '
            + ', '.join(f'{name}={index}' for name, index in pair.frames),
            'Frames are counted from 0; correct --frames or the table of frames',
            path_of(image),
        )
    return [
        ChosenFrame(phase, index, index, index if num_label > 1 else 0)
        for phase, index in pair.frames
    ]


def has_affine(image) -> bool:
    return bool(image.header['sform_code'] or image.header['qform_code'])


def voxel_size_mm(
    image, spacing_mm: tuple[float, float] | None
) -> tuple[float, float, float | None]:
    """Spacing of rows, of columns and (if known) of slices in mm.

    nibabel replaces a missing voxel size by 1 with a mere log entry, so the stored one is read.
    """
    with nibabel.openers.ImageOpener(image.get_filename()) as file:
        stored = np.abs(type(image.header).from_fileobj(file, check=False)['pixdim'][1:4])
    if image.header['sform_code'] > 0:
        stored = nibabel.affines.voxel_sizes(image.affine)
    known = np.isfinite(stored) & (stored > 0)
    if not known[: len(image.shape)][:2].all():
        if spacing_mm is None:
            raise ConversionError(
                'its header has no voxel size',
                'Give the spacing of the pixels with --spacing-mm',
                path_of(image),
            )
        return (*spacing_mm, None)
    unit = MM_PER_UNIT.get(image.header.get_xyzt_units()[0], 1.0)
    columns, rows, depth = (float(size) * unit for size in stored)
    return rows, columns, depth if known[2] else None


def align_label(image, label, label_index: int, assume_same_grid: bool) -> tuple[np.ndarray, int]:
    """Bring a label volume onto the voxel grid of its image.

    Labels stored with flipped or exchanged axes are turned, without interpolation; then both grids
    may differ by whole slices only.

    Returns:
        Labels (columns, rows, label slices) and the image slice of the first label slice.

    Raises:
        ConversionError: If the grids do not match, or a header places its volume nowhere.
    """
    shape, label_path = _grid_shape(image), path_of(label)
    array = _read_labels(label, label_index)
    without = [path_of(volume) for volume in (image, label) if not has_affine(volume)]
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

    to_image = np.linalg.inv(image.affine) if np.linalg.det(image.affine[:3, :3]) else None
    if to_image is None or not np.linalg.det(label.affine[:3, :3]):
        raise ConversionError(
            'an affine is singular',
            'Restore the affines of both volumes',
            path_of(image) if to_image is None else label_path,
        )
    turn = orientations.io_orientation(to_image @ label.affine)
    affine = to_image @ label.affine @ orientations.inv_ornt_aff(turn, array.shape)
    array = orientations.apply_orientation(array, turn)

    drift = np.abs(affine[:3, :3] - np.eye(3)) @ (np.array(array.shape) - 1)
    if np.any(drift > GRID_TOLERANCE_VOXELS):
        raise ConversionError(
            f'its voxel grid is rotated or scaled against the image: they part by {drift.max():.1f}'
            ' voxels',
            'Resample the labels onto the image with nearest neighbour',
            label_path,
        )
    offset = affine[:3, 3]
    size = nibabel.affines.voxel_sizes(image.affine)
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


def _read_labels(label, frame: int) -> np.ndarray:
    """Labels of a frame as stored, shape (columns, rows, slices)."""
    behind = (0,) * (len(label.shape) - 4)
    try:
        array = np.asanyarray(
            label.dataobj[(..., frame, *behind)] if len(label.shape) > 3 else label.dataobj
        )
    except Exception as error:  # gzip, zlib and nibabel raise many types on damaged files
        raise ConversionError(
            'its labels cannot be read, it may be truncated',
            'Export or download it again',
            path_of(label),
        ) from error
    return array.reshape(_grid_shape(label))
