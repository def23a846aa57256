"""What the readers hand to the writer: studies, labelled slices and classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from swin_ext.conversion.errors import ArgumentError, ConversionError
from swin_ext.utils import hashes


def is_number(text: str) -> bool:
    """Whether a text is a whole number from 0 on; `str.isdigit` takes superscripts for one."""
    return text.isascii() and text.isdigit()


@dataclass(frozen=True)
class LabelMap:
    """Which label values belong to which class; several values may share one class."""

    class_of: dict[int, str]
    ignored: frozenset = frozenset()

    @classmethod
    def parse(cls, text: str, ignored: str = '') -> LabelMap:
        """Read '1=LV,2=Myo,4=RV'.

        Raises:
            ArgumentError: If an entry is no VALUE=CLASS, or a value is 0 or occurs twice.
        """
        class_of = {}
        for entry in text.split(','):
            value, _, name = (part.strip() for part in entry.partition('='))
            if not is_number(value) or not name:
                raise ArgumentError(
                    f'labels: {entry.strip()!r} in {text!r} is not VALUE=CLASS such as 1=LV'
                )
            if int(value) == 0 or int(value) in class_of:
                raise ArgumentError(
                    f'labels: value {value} in {text!r} '
                    + ('is the background' if int(value) == 0 else 'occurs twice')
                )
            class_of[int(value)] = name
        values = [value.strip() for value in ignored.split(',') if value.strip()]
        if not all(map(is_number, values)):
            raise ArgumentError(f'ignored labels: {ignored!r} are not whole numbers such as 3,5')
        both = sorted(set(map(int, values)) & set(class_of))
        if both:
            raise ArgumentError(f'labels: values {both} are both a class and ignored')
        return cls(class_of, frozenset(map(int, values)))

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes in the order of their first mention, which is that of the category ids."""
        return tuple(dict.fromkeys(self.class_of.values()))

    def check(self, labels: np.ndarray, path: Path) -> np.ndarray:
        """Labels of any dtype and shape as integers.

        Raises:
            ConversionError: If a value is not a whole number or not in the map.
        """
        values = np.unique(labels)
        if not np.all(np.isfinite(values)) or np.any(np.abs(values - np.rint(values)) > 1e-3):
            raise ConversionError(
                'its labels are not whole numbers, as after interpolation',
                'Resample label maps with nearest neighbour, or check that this is the label file',
                path,
            )
        values = np.unique(np.rint(values).astype(np.int64)).tolist()
        unknown = sorted(set(values) - {0} - set(self.class_of) - self.ignored)
        if unknown:
            shown = ', '.join(map(str, unknown[:10])) + (', ...' if len(unknown) > 10 else '')
            raise ConversionError(
                f'label values {shown} are in no class',
                f'Name them in --labels (now {self}), or leave them out with --ignore-labels',
                path,
            )
        return np.rint(labels).astype(np.int64)

    def masks(self, labels: np.ndarray) -> dict[str, np.ndarray]:
        """Boolean (H, W) mask of every class that is present in checked labels (H, W)."""
        masks = {}
        for name in self.classes:
            values = [value for value, other in self.class_of.items() if other == name]
            mask = np.isin(labels, values)
            if mask.any():
                masks[name] = mask
        return masks

    def __str__(self) -> str:
        return ','.join(f'{value}={name}' for value, name in self.class_of.items())


@dataclass
class LabelledSlice:
    """One image with its masks and where it came from.

    Args:
        name: Distinguishes the slices of one study, for instance 'ED_z03'.
        image: (H, W) float32 in the units of the modality.
        masks: Boolean (H, W) mask by class; absent classes are left out.
        source: The file that the pixels came from.
        sha256: Hexadecimal digest of that file.
        spacing_mm: Distance of pixel centres down the rows and along them; None if unknown.
        slice_spacing_mm: Distance of slice centres.
        slice: Position in the stack, counted from 0.
        phase: 'ED', 'ES' or another name of the cardiac phase.
        frame: Position in the cardiac cycle.
        slice_index: Third index of the slice in a NIfTI volume.
        frame_index: Fourth index in a NIfTI volume, or the frame of a multi-frame DICOM file.
        window_over: (..., H, W) pixels whose percentiles make the 8-bit window; `image` itself if
            None.
        is_display: Whether the file holds 8-bit grey levels, which need no window.
        doubts: What a reader of its stack's figures should know of place and time. They quote no
            path and nothing that could identify a patient.
    """

    name: str
    image: np.ndarray
    masks: dict[str, np.ndarray]
    source: Path
    sha256: str
    spacing_mm: tuple[float, float] | None
    slice_spacing_mm: float | None = None
    slice: int | None = None
    phase: str | None = None
    frame: int | None = None
    slice_index: int | None = None
    frame_index: int | None = None
    window_over: np.ndarray | None = None
    is_display: bool = False
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """All that is converted of one patient, found but not yet read.

    Args:
        patient: Name of the patient's folder or the part of the file names in its place.
        root: Folder that the user named; source files are recorded relative to it.
        spacing_mm: Pixel spacing for files that carry none.

    Attributes:
        window: What the percentiles of 8-bit PNG are taken over: the 'slice', or all slices of
            the 'study' at that time (`LabelledSlice.window_over`).
        keep_8_bit: Whether files of 8-bit grey levels are taken as they are.
    """

    window: ClassVar[str] = 'slice'
    keep_8_bit: ClassVar[bool] = False

    patient: str
    root: Path
    spacing_mm: tuple[float, float] | None

    def source_files(self) -> list[Path]:
        """Every file the study is made of, those with the pixels first."""
        raise NotImplementedError

    def read(self, labels: LabelMap, left_out: Counter) -> Iterator[LabelledSlice]:
        """Read the study slice by slice, counting in `left_out` what is not converted and why.

        Raises:
            ConversionError: If any file of the study cannot be used.
        """
        raise NotImplementedError


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file of the study.

    Raises:
        ConversionError: If the file cannot be read.
    """
    try:
        return hashes.sha256_of(path)
    except OSError as error:
        raise ConversionError(
            'the file cannot be read', 'Check that it exists and its permissions', path
        ) from error
