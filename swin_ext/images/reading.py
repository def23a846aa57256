"""Reads one image of a cardiac MR file: PNG, JPEG, DICOM, NIfTI or NumPy.

The format is told from the file's content, as DICOM files often have no suffix. Rows and columns
come out in storage order, never re-oriented by a header of DICOM or NIfTI, so that masks drawn on
the same file stay in place. PNG and JPEG are turned by their EXIF orientation, as viewers do in
which masks are drawn:

============================  ==================================================================
file                          meaning of its axes
============================  ==================================================================
PNG (1 to 16 bit), JPEG       rows, columns, turned as an EXIF orientation says
DICOM                         rows, columns; a multi-frame object has frames, but no slices
NIfTI ``array[x, y, z, t]``   columns ``x``, rows ``y``, slices ``z``, frames ``t``
``.npy``                      rows, columns; slices, rows, columns; or
                              frames, slices, rows, columns
============================  ==================================================================

An image entry of a COCO file says with `slice_index` and `frame_index`, counted from 0, which
image of such a file it means.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from swin_ext.images.bare_dicom import begins_with_element
from swin_ext.images.dicom_pixels import open_dicom
from swin_ext.images.image_file import (
    Content,
    ImageFile,
    ImageNotFoundError,
    ImageReadError,
    naming,
)
from swin_ext.images.nifti_pixels import GZIP_SIGNATURE, find_pair, is_nifti, open_nifti
from swin_ext.images.npy_pixels import NPY_SIGNATURE, open_npy
from swin_ext.images.preprocessing import apply_window, window_limits, window_percentile
from swin_ext.images.raster_pixels import JPEG_SIGNATURE, PNG_SIGNATURE, open_jpeg, open_png

__all__ = [
    'ImageFile',
    'ImageNotFoundError',
    'ImageReadError',
    'apply_window',
    'open_image',
    'read_frame',
    'window_limits',
    'window_percentile',
]

FORMATS = (
    'PNG (1 to 16 bit), JPEG (8 bit), DICOM, NIfTI (.nii, .nii.gz, .hdr with .img), NumPy (.npy)'
)
HEAD_BYTES = 352  # hold what tells any of the formats


def read_frame(
    path_or_bytes: str | os.PathLike | bytes,
    *,
    slice_index: int | None = None,
    frame_index: int | None = None,
) -> np.ndarray:
    """Read one image.

    Args:
        path_or_bytes: A local file, or the content of one. Of uncompressed NIfTI and NumPy files
            given by their path, only the wanted image is read; packed NIfTI files are kept
            unpacked within bounds, see `nifti_pixels`.
        slice_index: Position in space, needed where the file holds more than one.
        frame_index: Position in time, needed where the file holds more than one.

    Returns:
        float32 of shape (H, W) in modality units: DICOM rescale slope and intercept or the
        modality LUT are applied, MONOCHROME1 is inverted over its range of stored values, NIfTI
        scaling is applied. PNG, JPEG and NumPy values are as stored.

    Raises:
        ImageNotFoundError: If there is no such file.
        ImageReadError: If the file is damaged or of an unknown format, has colours, NaN or
            infinite pixels, or has no such slice or frame.
        MissingPackageError: If the package is missing that reads the format or decodes the DICOM
            transfer syntax; the message says which.
    """
    return open_image(path_or_bytes).frame(slice_index, frame_index)


def open_image(path_or_bytes: str | os.PathLike | bytes, name: str | None = None) -> ImageFile:
    """Open a file of any of the formats; see `read_frame` for arguments and errors.

    Args:
        name: What errors call the file; needed for bytes only.
    """
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        data = bytes(path_or_bytes)
        content = Content(name or f'the image of {len(data)} bytes', data=data)
    else:
        content = Content(name or str(path_or_bytes), path=Path(path_or_bytes))
        if not content.path.is_file():
            raise ImageNotFoundError(f'There is no image file {content.name}.')
    with naming(content.name):
        head = content.read(0, HEAD_BYTES)
        if not head:
            raise ImageReadError(f'{content.name} is empty (0 bytes).')
        return _find_opener(head, content)(content)


def _find_opener(head: bytes, content: Content) -> Callable[[Content], ImageFile]:
    for signature, opener in (
        (PNG_SIGNATURE, open_png),
        (JPEG_SIGNATURE, open_jpeg),
        (NPY_SIGNATURE, open_npy),
        (GZIP_SIGNATURE, open_nifti),
    ):
        if head.startswith(signature):
            return opener
    if head[128:132] == b'DICM' or begins_with_element(head):
        return open_dicom
    # The pixels of a pair begin with anything.
    if is_nifti(head) or (content.path and find_pair(content.path)):
        return open_nifti
    raise ImageReadError(
        f'{content.name} is of no known format. Supported: {FORMATS}; it begins with {head[:8]!r}.'
    )
