"""Patients' names that are part of the pixels, as DICOM headers declare it."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from swin_ext.conversion.errors import ConversionError

DICOM_SUFFIXES = ('.dcm', '.ima', '')  # which may have no preamble


def check_burned_in(paths: Iterable[Path], allowed: bool, noted: Counter) -> None:
    """Refuse or count DICOM files with BurnedInAnnotation YES (0028,0301), whatever their pixels.

    Raises:
        ConversionError: If there is one and it is not `allowed`.
    """
    for path in paths:
        if not _is_burned_in(path):
            continue
        if not allowed:
            raise ConversionError(
                'its header says that text is burned into the image (BurnedInAnnotation YES), '
                'which may identify the patient',
                'Leave it out, or look at it and say --allow-burned-in if there is none',
                path,
            )
        noted['images with text burned in by their header, converted as asked for'] += 1


def _is_burned_in(path: Path) -> bool:
    try:
        with open(path, 'rb') as file:
            has_preamble = file.read(132)[128:] == b'DICM'
        if not has_preamble and path.suffix.lower() not in DICOM_SUFFIXES:
            return False
        import pydicom

        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # they would print values of the header
            header = pydicom.dcmread(
                path, stop_before_pixels=True, specific_tags=['BurnedInAnnotation'], force=True
            )
        return str(header.get('BurnedInAnnotation') or '').strip().upper() == 'YES'
    except MemoryError:
        raise
    except Exception:  # of a damaged file, which its reader explains
        return False
