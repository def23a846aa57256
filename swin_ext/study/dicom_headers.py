"""DICOM headers as frames: what files say of place and time, checked value by value."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from swin_ext.images.bare_dicom import begins_with_element
from swin_ext.study.dicom_values import (
    FrameHeader,
    as_number,
    get_value,
    items_of,
    times_of_file,
)
from swin_ext.study.errors import StudyError
from swin_ext.study.frames import Frame
from swin_ext.study.geometry import is_plausible, plane_normal
from swin_ext.study.phases import CYCLE_TAGS
from swin_ext.utils.optional import import_optional

pydicom = import_optional('pydicom', 'Reading DICOM')

# All that is read besides pixels. Of these, the UIDs serve to match files and are never written.
GEOMETRY_TAGS = (
    'SOPClassUID',
    'SOPInstanceUID',
    'SeriesInstanceUID',
    'InstanceNumber',
    'CardiacNumberOfImages',
    'NumberOfFrames',
    'Rows',
    'Columns',
    'PixelSpacing',
    'ImagePositionPatient',
    'ImageOrientationPatient',
    'SliceLocation',
    'SpacingBetweenSlices',
    'SliceThickness',
    'AcquisitionTime',
    'ContentTime',
    'FrameTime',
    'FrameTimeVector',
    'SharedFunctionalGroupsSequence',
    'PerFrameFunctionalGroupsSequence',
    *CYCLE_TAGS,
)
SEGMENTATION_STORAGE = (
    '1.2.840.10008.5.1.4.1.1.66.4',  # Segmentation
    '1.2.840.10008.5.1.4.1.1.66.7',  # Label Map Segmentation
)
# Far beyond any cine; a header that promises more is damaged.
MAX_FRAMES = 20_000
FARTHEST_MM = 1e5  # no scanner is longer than 100 m
SUFFIXES = ('.dcm', '.ima')


def is_dicom(path: Path) -> bool:
    """Whether a file is to be read as DICOM: by suffix, by magic, or by its first elements.

    Files without the preamble of PS3.10 are still exported, often without a suffix, too. They
    begin with an element of group 0002 or 0008, of little or big endian.
    """
    if path.name.upper() == 'DICOMDIR':
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        with open(path, 'rb') as file:
            head = file.read(132)
    except OSError:
        return True  # an error of its study, when that is read
    return head[128:] == b'DICM' or begins_with_element(head)


def read_header(path: Path, tags: tuple[str, ...] = GEOMETRY_TAGS) -> pydicom.Dataset:
    """Elements of a DICOM file, with or without preamble; values are parsed on access.

    Raises:
        StudyError: If it is no DICOM file, or its header is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with open(path, 'rb') as file:
                head = file.read(132)
            bare = head[128:] != b'DICM' and begins_with_element(head)
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=list(tags), force=bare
            )
            if bare and not header.get('SOPClassUID') and not header.get('Rows'):
                raise ValueError('it has neither an SOP class nor a size')
    except Exception as error:  # pydicom raises many types on damaged files
        raise StudyError(
            'it cannot be read as DICOM, it may be truncated',
            'Export or download it again, or remove it',
            path,
        ) from error
    return header


def is_segmentation(path: Path) -> bool:
    return (
        get_value(read_header(path, ('SOPClassUID', 'Rows')), 'SOPClassUID') in SEGMENTATION_STORAGE
    )


def is_image(header: pydicom.Dataset) -> bool:
    """Whether a DICOM object has a size; reports, presentation states and segmentations do not."""
    return bool(get_value(header, 'Rows') and get_value(header, 'Columns')) and (
        get_value(header, 'SOPClassUID') not in SEGMENTATION_STORAGE
    )


def read_frames(
    paths: Iterable[Path], spacing_mm: tuple[float, float] | None = None
) -> list[Frame]:
    """All frames of DICOM files, in the order of `paths`; see `frames_of`."""
    return frames_of({path: read_header(path) for path in paths}, spacing_mm)


def frames_of(
    headers: Mapping[Path, pydicom.Dataset], spacing_mm: tuple[float, float] | None = None
) -> list[Frame]:
    """All frames that headers describe.

    Args:
        spacing_mm: Pixel spacing for files that carry none.

    Raises:
        StudyError: If a file cannot be read, lacks what is needed, or occurs twice.
    """
    frames: list[Frame] = []
    path_of: dict[str, Path] = {}
    for path, header in headers.items():
        with warnings.catch_warnings():
            # Some UIDs of public data break the rules; and warnings would print their values.
            warnings.simplefilter('ignore')
            found = _frames_of(header, path, spacing_mm)
        uid = found[0].sop_uid
        if uid in path_of:
            raise StudyError(
                'it has the SOP instance UID of another file, so it is a copy or one of both was '
                'altered',
                f'Keep one of it and {path_of[uid].name}',
                path,
            )
        path_of[uid] = path
        frames += found
    return frames


def _frames_of(
    header: pydicom.Dataset, path: Path, spacing_mm: tuple[float, float] | None
) -> list[Frame]:
    uid = str(get_value(header, 'SOPInstanceUID') or '')
    size = [as_number(get_value(header, keyword)) for keyword in ('Rows', 'Columns')]
    if not uid or not all(size) or min(size) < 1:
        raise StudyError(
            'it is DICOM, but no image: it has no size or no instance UID',
            'Remove it from the folder',
            path,
        )
    found = FrameHeader(header, 0, path).vector('NumberOfFrames', 1)
    count = 1 if found is None else int(found[0])
    if not 1 <= count <= MAX_FRAMES:
        raise StudyError(
            f'its NumberOfFrames is not one of 1 to {MAX_FRAMES}', 'Export it again', path
        )
    groups = len(items_of(header, 'PerFrameFunctionalGroupsSequence'))
    if count > 1 and groups not in (0, count):
        raise StudyError(f'it has {count} frames, but describes {groups}', 'Export it again', path)
    size = int(size[0]), int(size[1])
    clock = times_of_file(header, count, path)
    if not groups:  # all that differs is the time
        first = _frame_of(header, 0, count, path, uid, size, spacing_mm)
        found = (
            [replace(first, frame_index=index) for index in range(count)] if count > 1 else [first]
        )
    else:
        found = [
            _frame_of(header, index, count, path, uid, size, spacing_mm) for index in range(count)
        ]
    return [replace(frame, times={**frame.times, **times}) for frame, times in zip(found, clock)]


def _frame_of(
    header: pydicom.Dataset,
    index: int,
    count: int,
    path: Path,
    uid: str,
    size: tuple[int, int],
    spacing_mm: tuple[float, float] | None,
) -> Frame:
    fields = FrameHeader(header, index, path)
    spacing = fields.vector('PixelSpacing', 2)
    if spacing is not None and spacing.min() < 0:
        raise StudyError('its PixelSpacing is negative', 'Correct the tag', path)
    if spacing is not None and spacing.min() > 0:  # zeros stand for what is not known
        spacing_mm = (float(spacing[0]), float(spacing[1]))
        if not is_plausible(spacing_mm):
            raise StudyError(
                f'its pixel spacing of {spacing[0]:g} x {spacing[1]:g} mm cannot be that of a '
                'cardiac image',
                'Correct PixelSpacing, which is in mm',
                path,
            )
    if spacing_mm is None:
        raise StudyError('its header has no pixel spacing', 'Give it with --spacing-mm', path)
    orientation = fields.vector('ImageOrientationPatient', 6)
    corner = fields.vector('ImagePositionPatient', 3)
    normal = position = None
    if orientation is not None:
        try:
            normal = plane_normal(orientation)
        except ValueError as error:
            raise StudyError(str(error), 'Correct ImageOrientationPatient', path) from error
        if corner is not None:
            position = float(normal @ corner)
            if abs(position) > FARTHEST_MM:
                raise StudyError(
                    f'its position lies {position:g} mm away', 'Correct ImagePositionPatient', path
                )
    times = {tag: fields.scalar(tag) for tag in CYCLE_TAGS if tag != 'FrameTime'}
    phases, number = (
        as_number(get_value(header, 'CardiacNumberOfImages')),
        fields.scalar('InstanceNumber'),
    )
    return Frame(
        path,
        *size,
        spacing_mm,
        frame_index=index if count > 1 else None,
        sop_uid=uid,
        series_uid=str(get_value(header, 'SeriesInstanceUID') or ''),
        normal=None if normal is None else tuple(normal.tolist()),
        axes=None if orientation is None else tuple(orientation.tolist()),
        position_mm=position,
        corner_mm=None if corner is None else tuple(corner.tolist()),
        slice_location_mm=fields.scalar('SliceLocation'),
        slice_gap_mm=fields.scalar('SpacingBetweenSlices'),
        thickness_mm=fields.scalar('SliceThickness'),
        times={tag: value for tag, value in times.items() if value is not None},
        number=int(number) if number is not None and count == 1 else None,
        phases_said=int(phases) if phases and phases >= 1 else None,
    )
