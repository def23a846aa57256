"""What the entries and pixels of every study depend on, besides its reader."""

from __future__ import annotations

from dataclasses import dataclass

from swin_ext.conversion import choices
from swin_ext.conversion.errors import ArgumentError
from swin_ext.conversion.study import LabelMap, Study
from swin_ext.images.preprocessing import Preprocessing


@dataclass(frozen=True)
class Settings:
    """Every field decides about the output: another value needs another conversion.

    Args:
        pixels: 'png8' writes 8-bit PNG by a percentile window, 'png16' 16-bit PNG of the values
            themselves, 'none' leaves the pixels in the source files.
        window: Lower and upper percentile of 'png8'.
        instances: 'class' for one instance per class and slice, 'component' for one per
            8-connected component.
        patient_ids: 'pseudonym' or 'folder', see `patients.name_patients`.
        keep_empty: Keep stacks (patients at a time) without any label. Slices without a label
            in a labelled stack are always kept: there, a prediction is an error that counts.
        allow_burned_in: Convert DICOM images whose header says that text is burned into them.
    """

    labels: LabelMap
    pixels: str = 'png8'
    window: tuple[float, float] = (0.5, 99.5)
    instances: str = 'class'
    patient_ids: str = 'pseudonym'
    keep_empty: bool = False
    allow_burned_in: bool = False

    def __post_init__(self):
        for name in ('pixels', 'instances', 'patient_ids'):
            value, known = getattr(self, name), getattr(choices, name.upper())
            if value not in known:
                raise ArgumentError(f'{name}={value!r} must be one of {known}')

    def preprocessing(self, study: Study) -> Preprocessing:
        """What turns the pixels of a study's files into those of the output."""
        if self.pixels != 'png8':
            return Preprocessing()  # values stay as they are
        return Preprocessing(study.window, tuple(self.window), keep_8_bit=study.keep_8_bit)


def preprocessing_of_all(settings: Settings, studies: list[Study]) -> Preprocessing:
    """The preprocessing that all studies of an annotation file share.

    Raises:
        ArgumentError: If they are of readers with different ones.
    """
    first, *others = {settings.preprocessing(study) for study in studies}
    if others:
        raise ArgumentError(
            'studies of readers with different windows need an output folder each: '
            f'{first} and {others[0]}'
        )
    return first
