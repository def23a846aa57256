"""Read image pixels through `cmr_image_io`, with the errors of a conversion."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from swin_ext.conversion.study import ConversionError
from swin_ext.images.reading import ImageReadError, open_image, read_frame


def read_slice(path: Path, frame_index: int | None = None) -> np.ndarray:
    """Pixels (H, W) of a PNG or DICOM file, float32 in modality units.

    Raises:
        ConversionError: If they cannot be read or decoded.
    """
    try:
        return read_frame(path, frame_index=frame_index)
    except (ImageReadError, ImportError, OSError) as error:
        raise _conversion_error(path, error) from error


def read_stack(path: Path, frame_index: int) -> np.ndarray:
    """Pixels (slices, H, W) of one frame of a NIfTI file, float32 in modality units.

    Raises:
        ConversionError: If they cannot be read.
    """
    try:
        return open_image(path).stack(frame_index)
    except (ImageReadError, ImportError, OSError) as error:
        raise _conversion_error(path, error) from error


def _conversion_error(path: Path, error: Exception) -> ConversionError:
    if isinstance(error, FileNotFoundError):
        return ConversionError('the file does not exist', 'Check the path', path)
    if isinstance(error, ImportError):
        return ConversionError(
            'reading it needs a package that is not installed',
            'Install the package named in brackets',
            path,
        )
    if 'NaN' in str(error):
        return ConversionError(
            'it has pixels that are NaN or infinite', 'Replace them, or leave the study out', path
        )
    return ConversionError(
        'its pixels cannot be read or decoded', 'Export or download the file again', path
    )
