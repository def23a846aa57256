"""Values of DICOM headers, checked one by one, whatever their elements hold."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np

from swin_ext.study.errors import StudyError
from swin_ext.utils.optional import import_optional

pydicom = import_optional('pydicom', 'Reading DICOM')

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
TIME = re.compile(r'(\d{2})(\d{2})(\d{2}(?:\.\d{1,6})?)')


def get_value(dataset: pydicom.Dataset, keyword: str):
    """Value of an element; None if it is missing, empty or cannot be parsed."""
    try:
        value = dataset.get(keyword)
    except Exception:  # parsing raises many types on damaged values
        return None
    if isinstance(value, str):
        return str(value).strip() or None
    return value


def as_number(value) -> float | None:
    """A finite number; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def items_of(dataset: pydicom.Dataset, keyword: str) -> list:
    value = get_value(dataset, keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []


class FrameHeader:
    """What holds for one frame: its functional groups, the shared ones, and the top level."""

    def __init__(self, header: pydicom.Dataset, index: int, path: Path):
        self.path = path
        per_frame = items_of(header, 'PerFrameFunctionalGroupsSequence')
        self.levels = [
            *per_frame[index : index + 1],
            *items_of(header, 'SharedFunctionalGroupsSequence')[:1],
        ]
        self.top = header

    def value(self, keyword: str):
        group = GROUP_OF.get(keyword)
        for level in self.levels if group else ():
            for item in items_of(level, group)[:1]:
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
        numbers = [as_number(item) for item in values]
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


def times_of_file(header: pydicom.Dataset, count: int, path: Path) -> list[dict[str, float]]:
    """Times of the frames of a file that its functional groups do not hold."""
    if count == 1:
        found = {}
        for tag in ('AcquisitionTime', 'ContentTime'):
            seconds = seconds_of(get_value(header, tag))
            if seconds is not None:
                found[tag] = seconds
        return [found]
    vector = get_value(header, 'FrameTimeVector')
    if isinstance(vector, (list, pydicom.multival.MultiValue)) and len(vector) == count:
        steps = [as_number(step) for step in vector]
        if None not in steps and min(steps[1:]) > 0:
            # Increments between frames; the first is 0 (PS3.3, C.7.6.5).
            return [dict(FrameTime=float(time)) for time in np.cumsum(steps)]
        raise StudyError('its FrameTimeVector does not rise', 'Export it again', path)
    step = as_number(get_value(header, 'FrameTime'))
    if step and step > 0:
        return [dict(FrameTime=step * index) for index in range(count)]
    return [{} for _ in range(count)]


def seconds_of(value) -> float | None:
    """Seconds since midnight of a DICOM time such as 081327.5."""
    match = TIME.fullmatch(str(value).strip()) if value is not None else None
    if not match:
        return None
    hours, minutes, seconds = map(float, match.groups())
    if hours > 23 or minutes > 59 or seconds >= 61:  # of a leap second
        return None
    return hours * 3600 + minutes * 60 + seconds
