"""Find and read image and label volumes in NIfTI; slices are paired by their affines."""

from __future__ import annotations

import configparser
import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from swin_ext.conversion.patterns import pair_paths
from swin_ext.conversion.pixels import read_stack
from swin_ext.conversion.reader_errors import conversion_errors, warn_of
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study, sha256_of
from swin_ext.study.nifti_geometry import (
    VolumeGeometry,
    check_slice_axis,
    header_path,
    open_nifti,
    read_geometry,
)

try:
    import nibabel
    from nibabel import orientations
except ImportError as error:
    raise ImportError('Reading NIfTI needs the package nibabel: pip install nibabel') from error

# Grids that differ by less than this fraction of a voxel anywhere are the same: headers keep
# float32 and some programs recompute them from quaternions.
GRID_TOLERANCE_VOXELS = 0.25
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
        with conversion_errors(next(iter(self.source_files()), self.root / self.patient)):
            yield from self._read(labels, left_out)

    def _read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        phase_of_frame = read_info_cfg(self.info_cfg) if self.info_cfg else {}
        found = {int(pair.frame) for pair in self.pairs if pair.frame}
        for frame, phase in phase_of_frame.items():
            if frame not in found:
                left_out[f'{phase} frames that Info.cfg names and that have no file'] += 1
        for pair in self.pairs:
            image_path = self._only(pair.images, 'image')
            label_path = self._only(pair.labels, 'label')
            image = read_geometry(image_path, self.spacing_mm)
            check_slice_axis(image)
            label = read_geometry(label_path, image.spacing_mm)
            warn_of(image.warnings, image_path)
            warn_of(label.warnings, label_path)
            sha256 = sha256_of(image_path)
            for chosen in choose_frames(image, label, pair, phase_of_frame):
                yield from self._read_volume(image, label, sha256, chosen, labels)

    def _only(self, paths: tuple[Path, ...], kind: str) -> Path:
        paths = header_path(paths)
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
        self,
        image: VolumeGeometry,
        label: VolumeGeometry,
        sha256: str,
        chosen: ChosenFrame,
        labels: LabelMap,
    ) -> Iterator[LabelledSlice]:
        label_map, first = align_label(image, label, chosen.label_index, self.assume_same_grid)
        label_map = labels.check(label_map, label.path)
        stack = read_stack(image.path, chosen.image_index)
        outside = [
            z
            for z in range(label_map.shape[2])
            if label_map[:, :, z].any() and not 0 <= z + first < len(stack)
        ]
        if outside:
            raise ConversionError(
                f'{len(outside)} labelled slices lie outside the image volume by the affines',
                f'Check that it belongs to {image.path.name}',
                label.path,
            )
        if not label_map.any():
            raise ConversionError(
                'it has no labelled voxel'
                + f' in frame {chosen.label_index}' * bool(chosen.label_index),
                'Check that it is the label file and of the right frame',
                label.path,
            )
        for z, pixels in enumerate(stack):
            inside = 0 <= z - first < label_map.shape[2]
            # NIfTI's first axis runs along the rows of the image, its second down the columns.
            masks = labels.masks(label_map[:, :, z - first].T) if inside else {}
            yield LabelledSlice(
                name=f'{chosen.name}z{z:02d}',
                image=pixels,
                masks=masks,
                source=image.path,
                sha256=sha256,
                spacing_mm=image.spacing_mm,
                slice_spacing_mm=image.slice_spacing_mm,
                slice=z,
                phase=chosen.phase,
                frame=chosen.frame,
                slice_index=z,
                frame_index=chosen.image_index,
                window_over=stack,
                doubts=(*image.warnings, *label.warnings),
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


def choose_frames(
    image: VolumeGeometry, label: VolumeGeometry, pair: VolumePair, phase_of_frame: dict[int, str]
) -> list[ChosenFrame]:
    """What is converted of a pair of volumes; `phase_of_frame` serves 3-D files with a number.

    Raises:
        ConversionError: If 4-D files lack a choice of frames, or a chosen frame.
    """
    num_image, num_label = image.shape[3], label.shape[3]
    if num_label not in (1, num_image):
        raise ConversionError(
            f'it has {num_image} frames, but its label volume {num_label}',
            'Labels need one frame, or one for each of the image',
            image.path,
        )
    if num_image == 1:
        frame = int(pair.frame) if pair.frame else None
        return [ChosenFrame(pair.phase or phase_of_frame.get(frame), frame, 0, 0)]
    if not pair.frames:
        raise ConversionError(
            f'it has {num_image} frames and nothing says which ones to convert',
            'Choose them with --frames, as in --frames ED=0,ES=9, or for M&Ms in the table of '
            'frames',
            image.path,
        )
    outside = [index for _, index in pair.frames if index >= num_image]
    if outside or (num_label == 1 and len(pair.frames) > 1):
        raise ConversionError(
            f'it has {num_image} frames (labels: {num_label}), but asked for are '
            + ', '.join(f'{name}={index}' for name, index in pair.frames),
            'Frames are counted from 0; correct --frames or the table of frames',
            image.path,
        )
    return [
        ChosenFrame(phase, index, index, index if num_label > 1 else 0)
        for phase, index in pair.frames
    ]


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
    turn = orientations.io_orientation(to_image @ label.affine_mm)
    affine = to_image @ label.affine_mm @ orientations.inv_ornt_aff(turn, array.shape)
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
