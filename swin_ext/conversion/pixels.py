"""Read image pixels through `images`, with the errors of a conversion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from swin_ext.conversion.errors import ConversionError
from swin_ext.images.reading import open_image, read_frame

Result = TypeVar('Result')


def read_slice(path: Path, frame_index: int | None = None) -> np.ndarray:
    """Pixels (H, W) of a PNG or DICOM file, float32 in modality units.

    Raises:
        ConversionError: If they cannot be read or decoded.
    """
    return _explaining(path, lambda: read_frame(path, frame_index=frame_index))


def read_picture(path: Path) -> tuple[np.ndarray, bool]:
    """Pixels as of `read_slice`, and whether the file holds 8-bit grey levels.

    Raises:
        ConversionError: If they cannot be read or decoded.
    """

    def read():
        image = open_image(path)
        return image.frame(), image.is_display

    return _explaining(path, read)


def read_stack(path: Path, frame_index: int) -> np.ndarray:
    """Pixels (slices, H, W) of one frame of a NIfTI file, float32 in modality units.

    Raises:
        ConversionError: If they cannot be read.
    """
    return _explaining(path, lambda: open_image(path).stack(frame_index))


def _explaining(path: Path, read: Callable[[], Result]) -> Result:
    try:
        return read()
    except MemoryError:
        raise
    except Exception as error:  # decoders raise many types on damaged files
        problem, remedy = _explain(error)
        raise ConversionError(problem, remedy, path) from error


def _explain(error: Exception) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return 'the file does not exist', 'Check the path'
    if isinstance(error, ImportError):
        return (
            'reading it needs a package that is not installed',
            'Install the package named in brackets',
        )
    if 'NaN' in str(error):
        return 'it has pixels that are NaN or infinite', 'Replace them, or leave the study out'
    return 'its pixels cannot be read or decoded', 'Export or download the file again'
