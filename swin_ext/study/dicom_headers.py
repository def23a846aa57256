"""DICOM headers as frames: what files say of place and time, checked value by value."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from swin_ext.images.bare_dicom import begins_with_element
from swin_ext.study.errors import StudyError
from swin_ext.study.frames import Frame
from swin_ext.study.geometry import is_plausible, plane_normal
from swin_ext.study.phases import CYCLE_TAGS

try:
    import pydicom
except ImportError as error:
    raise ImportError('Reading DICOM needs the package pydicom: pip install pydicom') from error

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
# Where an enhanced object keeps what a classic one has at its top (PS3.3, C.7.6.16 and C.8.13).
GROUP_OF = dict(
    PixelSpacing='PixelMeasuresSequence',
    SpacingBetweenSlices='PixelMeasuresSequence',
    SliceThickness='PixelMeasuresSequence',
    ImageOrientationPatient='PlaneOrientationSequence',
    ImagePositionPatient='PlanePositionSequence',
    TemporalPositionIndex='FrameContentSequence',
    NominalPercentageOfCardiacPhase='CardiacSynchronizationSequence',
    NominalCardiacTriggerDelayTime='CardiacSynchronizationSequence',
)
SEGMENTATION_STORAGE = (
    '1.2.840.10008.5.1.4.1.1.66.4',  # Segmentation
    '1.2.840.10008.5.1.4.1.1.66.7',  # Label Map Segmentation
)
# Far beyond any cine; a header that promises more is damaged.
MAX_FRAMES = 20_000
FARTHEST_MM = 1e5  # no scanner is longer than 100 m
TIME = re.compile(r'(\d{2})(\d{2})(\d{2}(?:\.\d{1,6})?)')
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
    return _get(read_header(path, ('SOPClassUID', 'Rows')), 'SOPClassUID') in SEGMENTATION_STORAGE


def is_image(header: pydicom.Dataset) -> bool:
    """Whether a DICOM object has a size; reports, presentation states and segmentations do not."""
    return bool(_get(header, 'Rows') and _get(header, 'Columns')) and (
        _get(header, 'SOPClassUID') not in SEGMENTATION_STORAGE
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


def _get(dataset: pydicom.Dataset, keyword: str):
    """Value of an element; None if it is missing, empty or cannot be parsed."""
    try:
        value = dataset.get(keyword)
    except Exception:  # parsing raises many types on damaged values
        return None
    if isinstance(value, str):
        return str(value).strip() or None
    return value


def _number(value) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _items(dataset: pydicom.Dataset, keyword: str) -> list:
    value = _get(dataset, keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []


class _FrameHeader:
    """What holds for one frame: its functional groups, the shared ones, and the top level."""

    def __init__(self, header: pydicom.Dataset, index: int, path: Path):
        self.path = path
        per_frame = _items(header, 'PerFrameFunctionalGroupsSequence')
        self.levels = [
            *per_frame[index : index + 1],
            *_items(header, 'SharedFunctionalGroupsSequence')[:1],
        ]
        self.top = header

    def value(self, keyword: str):
        group = GROUP_OF.get(keyword)
        for level in self.levels if group else ():
            for item in _items(level, group)[:1]:
                if keyword in item:
                    return self._present(item, keyword)
        return self._present(self.top, keyword) if keyword in self.top else None

    def _present(self, dataset: pydicom.Dataset, keyword: str):
        try:
            return dataset[keyword].value
        except Exception as error:  # parsing raises many types on damaged values
            raise StudyError(
                f'its {keyword} cannot be read', 'Export it again, or correct the tag', self.path
            ) from error

    def vector(self, keyword: str, size: int) -> np.ndarray | None:
        """Finite numbers (size,); None if the element is missing or empty.

        Raises:
            StudyError: If it holds anything else.
        """
        value = self.value(keyword)
        if value is None or (isinstance(value, (str, bytes)) and not value.strip()):
            return None
        values = (
            list(value)
            if isinstance(value, (list, tuple, pydicom.multival.MultiValue))
            else [value]
        )
        if not values:
            return None
        numbers = [_number(item) for item in values]
        if len(numbers) != size or None in numbers:
            raise StudyError(
                f'its {keyword} is not {size} finite number{"s" * (size > 1)}',
                'Export it again, or correct the tag',
                self.path,
            )
        return np.array(numbers)

    def scalar(self, keyword: str) -> float | None:
        """A number that only supports others: None, too, if it is not usable."""
        try:
            found = self.vector(keyword, 1)
        except StudyError:
            return None
        return None if found is None else float(found[0])


def _frames_of(
    header: pydicom.Dataset, path: Path, spacing_mm: tuple[float, float] | None
) -> list[Frame]:
    uid = str(_get(header, 'SOPInstanceUID') or '')
    size = [_number(_get(header, keyword)) for keyword in ('Rows', 'Columns')]
    if not uid or not all(size) or min(size) < 1:
        raise StudyError(
            'it is DICOM, but no image: it has no size or no instance UID',
            'Remove it from the folder',
            path,
        )
    found = _FrameHeader(header, 0, path).vector('NumberOfFrames', 1)
    count = 1 if found is None else int(found[0])
    if not 1 <= count <= MAX_FRAMES:
        raise StudyError(
            f'its NumberOfFrames is not one of 1 to {MAX_FRAMES}', 'Export it again', path
        )
    groups = len(_items(header, 'PerFrameFunctionalGroupsSequence'))
    if count > 1 and groups not in (0, count):
        raise StudyError(f'it has {count} frames, but describes {groups}', 'Export it again', path)
    size = int(size[0]), int(size[1])
    clock = _file_times(header, count, path)
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
    fields = _FrameHeader(header, index, path)
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
    phases, number = _number(_get(header, 'CardiacNumberOfImages')), fields.scalar('InstanceNumber')
    return Frame(
        path,
        *size,
        spacing_mm,
        frame_index=index if count > 1 else None,
        sop_uid=uid,
        series_uid=str(_get(header, 'SeriesInstanceUID') or ''),
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


def _file_times(header: pydicom.Dataset, count: int, path: Path) -> list[dict[str, float]]:
    """Times of the frames of a file that its functional groups do not hold."""
    if count == 1:
        found = {}
        for tag in ('AcquisitionTime', 'ContentTime'):
            seconds = _seconds(_get(header, tag))
            if seconds is not None:
                found[tag] = seconds
        return [found]
    vector = _get(header, 'FrameTimeVector')
    if isinstance(vector, (list, pydicom.multival.MultiValue)) and len(vector) == count:
        steps = [_number(step) for step in vector]
        if None not in steps and min(steps[1:]) > 0:
            # Increments between frames; the first is 0 (PS3.3, C.7.6.5).
            return [dict(FrameTime=float(time)) for time in np.cumsum(steps)]
        raise StudyError('its FrameTimeVector does not rise', 'Export it again', path)
    step = _number(_get(header, 'FrameTime'))
    if step and step > 0:
        return [dict(FrameTime=step * index) for index in range(count)]
    return [{} for _ in range(count)]


def _seconds(value) -> float | None:
    """Seconds since midnight of a DICOM time such as 081327.5."""
    match = TIME.fullmatch(str(value).strip()) if value is not None else None
    if not match:
        return None
    hours, minutes, seconds = map(float, match.groups())
    if hours > 23 or minutes > 59 or seconds >= 61:  # of a leap second
        return None
    return hours * 3600 + minutes * 60 + seconds
