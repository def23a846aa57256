"""Find and read DICOM series with contour text files or DICOM-SEG objects."""

from __future__ import annotations

import csv
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.conversion.contours import fill_contour, fill_ring, polygon_area, read_contour
from swin_ext.conversion.patterns import find_paths
from swin_ext.conversion.pixels import read_slice
from swin_ext.conversion.study import ConversionError, LabelledSlice, LabelMap, Study, sha256_of

try:
    import pydicom
    from pydicom.errors import InvalidDicomError
except ImportError as error:
    raise ImportError('Reading DICOM needs the package pydicom: pip install pydicom') from error

SEGMENTATION_STORAGE = (
    '1.2.840.10008.5.1.4.1.1.66.4',  # Segmentation
    '1.2.840.10008.5.1.4.1.1.66.7',
)  # Label Map Segmentation
# All that is read besides pixels. Of these, the UIDs serve to match files and are never written.
GEOMETRY_TAGS = (
    'SOPClassUID',
    'SOPInstanceUID',
    'InstanceNumber',
    'CardiacNumberOfImages',
    'NumberOfFrames',
    'Rows',
    'Columns',
    'PixelSpacing',
    'ImagePositionPatient',
    'ImageOrientationPatient',
    'SpacingBetweenSlices',
    'SliceThickness',
    'SharedFunctionalGroupsSequence',
    'PerFrameFunctionalGroupsSequence',
)
SAME_POSITION_MM = 0.5
SAME_DIRECTION_COSINE = 0.999
CONTOUR_NAME = re.compile(r'(\d+)-([io])contour', re.IGNORECASE)
CAVITY, MYOCARDIUM = 1, 2


@dataclass(frozen=True)
class Frame:
    """One image of a DICOM file.

    Args:
        sop_uid: Identifies the file within DICOM; several frames of a file share it.
        frame_index: Counted from 0 in a multi-frame file, else None.
        phase_index: Position in the cardiac cycle, counted from 0.
        spacing_mm: Distance of rows and of columns.
        normal: Unit vector across the image plane.
        position_mm: Position of the plane along its normal.
    """

    path: Path
    sop_uid: str
    frame_index: int | None
    height: int
    width: int
    phase_index: int | None
    spacing_mm: tuple[float, float]
    normal: tuple[float, float, float] | None
    position_mm: float | None
    slice_spacing_mm: float | None


@dataclass(frozen=True)
class ContourStudy(Study):
    """A DICOM series with contours of the endocardium (i) and the epicardium (o).

    A contour file carries the number of its image file: `IM-0001-0059-icontour-manual.txt`
    belongs to the file whose name ends on 59.

    Args:
        fill: Which pixels a contour takes, see `contours.fill_contour`.
    """

    images: tuple[Path, ...] = ()
    contours: tuple[Path, ...] = ()
    fill: str = 'centres'

    def source_files(self) -> list[Path]:
        return [*self.images, *self.contours]

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        if not self.contours:
            raise ConversionError(
                'it has no contour file',
                'Check the --contours pattern and --link',
                self.root / self.patient,
            )
        frames = read_frames(self.images, self.spacing_mm)
        by_number = number_files(frames)
        contours = self._contours_by_number(left_out)
        missing = sorted(set(contours) - set(by_number))
        if missing:
            raise ConversionError(
                f'{len(missing)} contours belong to image files that are missing: numbers '
                + ', '.join(map(str, missing[:10])),
                'Add the images, or remove the contours',
                next(iter(contours[missing[0]].values())),
            )

        polygons = {}
        for number, files in contours.items():
            frame = by_number[number]
            polygons[number] = {
                kind: read_contour(path, frame.height, frame.width) for kind, path in files.items()
            }
        phases = name_phases(
            {
                by_number[number]: polygon_area(shapes['i'])
                for number, shapes in polygons.items()
                if 'i' in shapes
            }
        )
        slices = number_slices(frames)
        needed = {'i', 'o'} if MYOCARDIUM in labels.class_of else {'i'}
        for number in sorted(polygons):
            shapes, frame = polygons[number], by_number[number]
            if not needed <= set(shapes):
                left_out['frames without both contours'] += 1
                continue
            inner = fill_contour(shapes['i'], frame.height, frame.width, self.fill)
            label_map = np.zeros(inner.shape, np.int64)
            if CAVITY in labels.class_of:
                label_map[inner] = CAVITY
            if MYOCARDIUM in labels.class_of:
                outer = fill_contour(shapes['o'], frame.height, frame.width, self.fill)
                label_map[fill_ring(inner, outer, contours[number]['o'])] = MYOCARDIUM
            yield labelled_slice(f'{number:04d}', frame, labels.masks(label_map), phases, slices)
        if len(frames) > len(polygons):
            left_out['frames without a contour'] += len(frames) - len(polygons)

    def _contours_by_number(self, left_out: Counter) -> dict[int, dict[str, Path]]:
        contours = defaultdict(dict)
        for path in self.contours:
            match = CONTOUR_NAME.search(path.name)
            if not match:
                left_out['text files that are no i- or o-contour'] += 1
                continue
            number, kind = int(match.group(1)), match.group(2).lower()
            if kind in contours[number]:
                raise ConversionError(
                    f'a second {kind}-contour of image {number}',
                    'Make the --contours pattern narrower: it takes in several observers or series',
                    path,
                )
            contours[number][kind] = path
        return contours


@dataclass(frozen=True)
class SegmentationStudy(Study):
    """A DICOM series with DICOM-SEG objects that refer to its images; labels are segments."""

    images: tuple[Path, ...] = ()
    segmentations: tuple[Path, ...] = ()

    def source_files(self) -> list[Path]:
        return [*self.images, *self.segmentations]

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        segmentations = [path for path in self.segmentations if is_segmentation(path)]
        if not segmentations:
            raise ConversionError(
                'it has no DICOM-SEG object',
                'Check the --segmentations pattern',
                self.root / self.patient,
            )
        segmentation_set = set(segmentations)
        frames = read_frames(
            [
                path
                for path in self.images
                if path not in segmentation_set and not is_segmentation(path)
            ],
            self.spacing_mm,
        )
        by_uid = defaultdict(list)
        for frame in frames:
            by_uid[frame.sop_uid].append(frame)
        label_maps: dict[Frame, np.ndarray] = {}
        for path in segmentations:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # as in `read_frames`
                found = read_segmentation(path, by_uid, labels)
            for frame, label_map in found:
                if frame not in label_maps:
                    label_maps[frame] = label_map
                    continue
                known = label_maps[frame]
                if np.any((known > 0) & (label_map > 0) & (known != label_map)):
                    raise ConversionError(
                        'its segments overlap those of another DICOM-SEG object',
                        'Keep one object per image',
                        path,
                    )
                label_maps[frame] = np.maximum(known, label_map)
        cavity = 'LV' if 'LV' in labels.classes else labels.classes[0]
        phases = name_phases(
            {
                frame: float(labels.masks(label_map).get(cavity, np.zeros(1)).sum())
                for frame, label_map in label_maps.items()
            }
        )
        slices = number_slices(frames)
        for number, frame in enumerate(frames):
            if frame in label_maps:
                yield labelled_slice(
                    f'{number:04d}', frame, labels.masks(label_maps[frame]), phases, slices
                )
        if len(frames) > len(label_maps):
            left_out['frames without a segmentation'] += len(frames) - len(label_maps)


def find_studies(
    root: Path,
    images: str,
    contours: str | None,
    segmentations: str | None,
    link: Path | None = None,
    spacing_mm: tuple[float, float] | None = None,
) -> list[ContourStudy | SegmentationStudy]:
    """Patients with their image files and contours, or DICOM-SEG objects.

    Args:
        images: Pattern of the folders with a patient's images, see `patterns.compile_pattern`.
        contours: Pattern of the folders with contours; likewise `segmentations`. One is given.
        link: CSV of two columns with a header: patient of `images`, patient of `contours`.

    Raises:
        ValueError: If a pattern or the table cannot be used.
    """
    names = read_link(link) if link else {}
    image_folders, label_folders = defaultdict(list), defaultdict(list)
    for found, pattern in ((image_folders, images), (label_folders, contours or segmentations)):
        for fields, folder in find_paths(root, pattern, folders=True):
            found[fields['patient']].append(folder)
    studies = []
    for patient, folders in sorted(image_folders.items()):
        files = [path for folder in folders for path in list_files(folder)]
        label_files = [
            path
            for folder in label_folders.get(names.get(patient, patient), ())
            for path in list_files(folder)
        ]
        image_files = tuple(path for path in files if may_be_dicom(path))
        if contours:
            texts = tuple(path for path in label_files if path.suffix == '.txt')
            studies.append(ContourStudy(patient, root, spacing_mm, image_files, texts))
        else:
            objects = tuple(path for path in label_files if may_be_dicom(path))
            studies.append(SegmentationStudy(patient, root, spacing_mm, image_files, objects))
    return studies


def read_link(path: Path) -> dict[str, str]:
    try:
        with open(path, newline='', encoding='utf-8-sig') as file:
            rows = [row for row in csv.reader(file) if row][1:]
        return {patient: other for patient, other in rows}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f'{path}: needs a header and two columns, the patients of the images and '
            f'of the contours ({type(error).__name__}: {error})'
        ) from error


def list_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob('*') if path.is_file() and not path.name.startswith('.')
    )


def may_be_dicom(path: Path) -> bool:
    """Whether a file must be readable as DICOM: by its suffix, or by its magic without one."""
    if path.name.upper() == 'DICOMDIR':
        return False
    if path.suffix.lower() in ('.dcm', '.ima'):
        return True
    try:
        with open(path, 'rb') as file:
            return file.read(132)[128:] == b'DICM'
    except OSError:
        return True  # an error of its study, when that is read


def read_header(path: Path, tags: tuple[str, ...]):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(tags))
    except (InvalidDicomError, OSError, EOFError, ValueError, AttributeError, KeyError) as error:
        raise ConversionError(
            'it cannot be read as DICOM, it may be truncated',
            'Export or download it again, or remove it',
            path,
        ) from error


def is_segmentation(path: Path) -> bool:
    return read_header(path, ('SOPClassUID',)).get('SOPClassUID') in SEGMENTATION_STORAGE


def read_frames(
    paths: list[Path] | tuple[Path, ...], spacing_mm: tuple[float, float] | None
) -> list[Frame]:
    """All frames of DICOM files, in the order of the files' names.

    Raises:
        ConversionError: If a file cannot be read, lacks what is needed, or occurs twice.
    """
    frames, path_of = [], {}
    for path in paths:
        header = read_header(path, GEOMETRY_TAGS)
        try:
            with warnings.catch_warnings():
                # Some UIDs of public data break the rules; and warnings would print their values.
                warnings.simplefilter('ignore')
                found = frames_of(header, path, spacing_mm)
        except ConversionError:
            raise
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ConversionError(
                'its size, position or spacing cannot be read', 'Export it again', path
            ) from error
        uid = found[0].sop_uid
        if uid in path_of:
            raise ConversionError(
                'it has the SOP instance UID of another file, so it is a copy or one of both was '
                'altered',
                f'Keep one of it and {path_of[uid].name}',
                path,
            )
        path_of[uid] = path
        frames += found
    return frames


def frames_of(header, path: Path, spacing_mm: tuple[float, float] | None) -> list[Frame]:
    uid = str(header.get('SOPInstanceUID', ''))
    if not uid or not header.get('Rows') or not header.get('Columns'):
        raise ConversionError(
            'it is DICOM, but no image: it has no size or no instance UID',
            'Remove it from the folder',
            path,
        )
    return [
        frame_of(header, index, path, uid, spacing_mm)
        for index in range(int(header.get('NumberOfFrames') or 1))
    ]


def frame_of(
    header, index: int, path: Path, uid: str, spacing_mm: tuple[float, float] | None
) -> Frame:
    """Geometry of one frame, from the header or a multi-frame file's functional groups."""
    multi_frame = 'NumberOfFrames' in header and int(header.NumberOfFrames) > 1

    def value(keyword: str, group: str):
        for sequence, item in (
            ('PerFrameFunctionalGroupsSequence', index),
            ('SharedFunctionalGroupsSequence', 0),
        ):
            groups = header.get(sequence) or ()
            inner = groups[item].get(group) if item < len(groups) else None
            if inner and inner[0].get(keyword) is not None:
                return inner[0].get(keyword)
        return header.get(keyword)

    spacing = value('PixelSpacing', 'PixelMeasuresSequence')
    if spacing is not None and len(spacing) == 2 and min(map(float, spacing)) > 0:
        spacing_mm = (float(spacing[0]), float(spacing[1]))
    if spacing_mm is None:
        raise ConversionError('its header has no pixel spacing', 'Give it with --spacing-mm', path)
    orientation = value('ImageOrientationPatient', 'PlaneOrientationSequence')
    corner = value('ImagePositionPatient', 'PlanePositionSequence')
    normal = position = None
    if orientation is not None and corner is not None:
        orientation = np.array(orientation, float)
        normal = np.cross(orientation[:3], orientation[3:])
        position = float(normal @ np.array(corner, float))
        normal = tuple(normal.tolist())
    gap = value('SpacingBetweenSlices', 'PixelMeasuresSequence') or value(
        'SliceThickness', 'PixelMeasuresSequence'
    )
    # A series runs through the cycle slice by slice; multi-frame files say it frame by frame.
    phases, number = header.get('CardiacNumberOfImages'), header.get('InstanceNumber')
    time = value('TemporalPositionIndex', 'FrameContentSequence')
    phase_index = int(time) - 1 if time is not None else None
    if not multi_frame and phases and number is not None:
        phase_index = (int(number) - 1) % int(phases)
    return Frame(
        path,
        uid,
        index if multi_frame else None,
        int(header.Rows),
        int(header.Columns),
        phase_index,
        spacing_mm,
        normal,
        position,
        float(gap) if gap else None,
    )


def number_files(frames: list[Frame]) -> dict[int, Frame]:
    """Frames by the last number in the name of their file."""
    by_number = {}
    for frame in frames:
        found = re.search(r'(\d+)\D*$', frame.path.stem)
        if not found or frame.frame_index is not None:
            continue
        number = int(found.group(1))
        if number in by_number:
            raise ConversionError(
                f'another image file has the number {number}, too, so contours of that number are '
                'ambiguous',
                'Make the --images pattern narrower: it takes in several series',
                frame.path,
            )
        by_number[number] = frame
    return by_number


def number_slices(frames: list[Frame]) -> dict[Frame, tuple[int, float | None]]:
    """Slice number and distance of slices in mm, by frame; parallel planes form a stack.

    Frames without a position in space are left out.
    """
    stacks: list[list[Frame]] = []
    for frame in frames:
        if frame.normal is None:
            continue
        for stack in stacks:
            if np.dot(stack[0].normal, frame.normal) > SAME_DIRECTION_COSINE:
                stack.append(frame)
                break
        else:
            stacks.append([frame])
    numbers = {}
    for stack in stacks:
        positions = []
        for position in sorted(frame.position_mm for frame in stack):
            if not positions or position - positions[-1] > SAME_POSITION_MM:
                positions.append(position)
        gap = float(np.median(np.diff(positions))) if len(positions) > 1 else None
        for frame in stack:
            nearest = int(np.argmin(np.abs(np.array(positions) - frame.position_mm)))
            numbers[frame] = (nearest, gap or frame.slice_spacing_mm)
    return numbers


def name_phases(areas: dict[Frame, float]) -> dict[int, str]:
    """'ED' and 'ES' by position in the cardiac cycle, from the area of the LV cavity by frame.

    Of the positions that were annotated, the one with the largest cavity (median over its slices)
    is ED and the one with the smallest is ES. With fewer than two there is nothing to tell them
    by, and phases stay unnamed.
    """
    by_phase = defaultdict(list)
    for frame, area in areas.items():
        if frame.phase_index is not None:
            by_phase[frame.phase_index].append(area)
    if len(by_phase) < 2:
        return {}
    ordered = sorted(by_phase, key=lambda index: float(np.median(by_phase[index])))
    return {index: f'phase{index:02d}' for index in ordered[1:-1]} | {
        ordered[0]: 'ES',
        ordered[-1]: 'ED',
    }


def labelled_slice(
    name: str,
    frame: Frame,
    masks: dict[str, np.ndarray],
    phases: dict[int, str],
    slices: dict[Frame, tuple[int, float | None]],
) -> LabelledSlice:
    number, gap = slices.get(frame, (None, frame.slice_spacing_mm))
    return LabelledSlice(
        name=name,
        image=read_slice(frame.path, frame.frame_index),
        masks=masks,
        source=frame.path,
        sha256=sha256_of(frame.path),
        spacing_mm=frame.spacing_mm,
        slice_spacing_mm=gap,
        slice=number,
        phase=phases.get(frame.phase_index),
        frame=frame.phase_index,
        frame_index=frame.frame_index,
    )


def read_segmentation(
    path: Path, by_uid: dict[str, list[Frame]], labels: LabelMap
) -> list[tuple[Frame, np.ndarray]]:
    """Frames that a DICOM-SEG object refers to, with their label maps of segment numbers.

    Raises:
        ConversionError: If the object cannot be read, its segments overlap or are in no class, or
            it refers to an image that is missing or of another size.
    """
    try:
        import highdicom
    except ImportError as error:
        raise ConversionError(
            'reading DICOM-SEG needs the package highdicom', 'pip install highdicom', path
        ) from error
    try:
        segmentation = highdicom.seg.segread(path)
    except Exception as error:  # highdicom and pydicom raise many types on damaged files
        raise ConversionError('it cannot be read as DICOM-SEG', 'Export it again', path) from error
    labels.check(np.array(segmentation.segment_numbers), path)
    found = []
    for _, _, uid in segmentation.get_source_image_uids():
        frames = by_uid.get(str(uid))
        if not frames:
            raise ConversionError(
                'it refers to an image that is not among the images',
                'Add the image files, or check the --images pattern',
                path,
            )
        try:
            if frames[0].frame_index is None:
                maps = segmentation.get_pixels_by_source_instance([uid], combine_segments=True)
            else:
                maps = segmentation.get_pixels_by_source_frame(
                    uid,
                    [frame.frame_index + 1 for frame in frames],
                    combine_segments=True,
                    assert_missing_frames_are_empty=True,
                )
        except (RuntimeError, ValueError, KeyError) as error:
            raise ConversionError(
                'its segments cannot be made a label map: they overlap, are fractional, or do not '
                'keep the pixels of the image',
                'Export it as binary segments on the grid of the image',
                path,
            ) from error
        for frame, label_map in zip(frames, maps):
            if label_map.shape != (frame.height, frame.width):
                raise ConversionError(
                    f'its frames have shape {label_map.shape}, but the image '
                    f'{(frame.height, frame.width)}',
                    'Export it on the grid of the image',
                    path,
                )
            found.append((frame, labels.check(label_map, path)))
    return found
