"""Reads one image of a cardiac MR file: PNG, DICOM, NIfTI or NumPy.

The format is told from the file's content, as DICOM files often have no suffix. Rows and columns
come out in storage order, never re-oriented by the header, so that masks drawn on the same file
stay in place:

============================  ==================================================================
file                          meaning of its axes
============================  ==================================================================
PNG, 8 or 16 bit              rows, columns
DICOM                         rows, columns; a multi-frame object has frames, but no slices
NIfTI ``array[x, y, z, t]``   columns ``x``, rows ``y``, slices ``z``, frames ``t``
``.npy``                      rows, columns; slices, rows, columns; or
                              frames, slices, rows, columns
============================  ==================================================================

An image entry of a COCO file says with `slice_index` and `frame_index`, counted from 0, which
image of such a file it means.
"""

from __future__ import annotations

import gzip
import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

FORMATS = 'PNG (8 or 16 bit), DICOM, NIfTI (.nii, .nii.gz), NumPy (.npy)'

GZIP_MAGIC, NIFTI_1_MAGIC, NIFTI_2_MAGIC = b'\x1f\x8b', b'n+1\0', b'n+2\0'

# The elements that the pixels depend on. Those that identify a patient are not even parsed.
DICOM_PIXEL_TAGS = (
    'SamplesPerPixel',
    'PhotometricInterpretation',
    'PlanarConfiguration',
    'NumberOfFrames',
    'Rows',
    'Columns',
    'BitsAllocated',
    'BitsStored',
    'HighBit',
    'PixelRepresentation',
    'RescaleSlope',
    'RescaleIntercept',
    'ModalityLUTSequence',
    'ExtendedOffsetTable',
    'ExtendedOffsetTableLengths',
    'SharedFunctionalGroupsSequence',
    'PerFrameFunctionalGroupsSequence',
    'PixelData',
    'FloatPixelData',
    'DoubleFloatPixelData',
)

# Which package decodes which compressed transfer syntax (DICOM PS3.5, annex A).
JPEG, JPEG_LS, JPEG_2000 = 'pylibjpeg-libjpeg', 'pyjpegls', 'pylibjpeg-openjpeg'
DICOM_DECODERS = {
    '1.2.840.10008.1.2.4.50': JPEG,
    '1.2.840.10008.1.2.4.51': JPEG,
    '1.2.840.10008.1.2.4.57': JPEG,
    '1.2.840.10008.1.2.4.70': JPEG,
    '1.2.840.10008.1.2.4.80': JPEG_LS,
    '1.2.840.10008.1.2.4.81': JPEG_LS,
    '1.2.840.10008.1.2.4.90': JPEG_2000,
    '1.2.840.10008.1.2.4.91': JPEG_2000,
    '1.2.840.10008.1.2.4.201': JPEG_2000,
    '1.2.840.10008.1.2.4.202': JPEG_2000,
    '1.2.840.10008.1.2.4.203': JPEG_2000,
}


class ImageReadError(ValueError):
    """An image file is damaged, of an unknown format, or does not hold what was asked for."""


@dataclass(frozen=True)
class ImageFile:
    """An opened file; pixels are decoded when asked for.

    Attributes:
        name: The path, or what is said of bytes.
        num_slices: Positions in space.
        num_frames: Positions in time.
        is_display: Whether the pixels are 8-bit grey levels, which need no window to be shown.
        decode: Returns the (H, W) pixels of a slice and a frame in modality units.
    """

    name: str
    num_slices: int
    num_frames: int
    is_display: bool
    decode: Callable[[int, int], np.ndarray]

    def frame(self, slice_index: int | None = None, frame_index: int | None = None) -> np.ndarray:
        """Return one image; see `read_frame`."""
        slice_index = self._check('slice_index', slice_index, self.num_slices, 'slices')
        frame_index = self._check('frame_index', frame_index, self.num_frames, 'frames')
        pixels = np.asarray(self.decode(slice_index, frame_index))
        if pixels.ndim != 2 or not pixels.size:
            raise ImageReadError(
                f'{self.name} holds an image of shape {pixels.shape}, not of (height, width).'
            )
        with np.errstate(over='ignore'):  # reported below
            image = np.ascontiguousarray(pixels, np.float32)
        bad = image.size - np.count_nonzero(np.isfinite(image))
        if bad:
            raise ImageReadError(
                f'{self.name}, slice {slice_index}, frame {frame_index}: {bad} of {image.size} '
                'pixels are NaN or infinite. Replace them, or leave the image out.'
            )
        return image

    def stack(self, frame_index: int | None = None) -> np.ndarray:
        """Return all slices of a frame, float32 of shape (slices, H, W)."""
        return np.stack([self.frame(z, frame_index) for z in range(self.num_slices)])

    def _check(self, key: str, index: int | None, count: int, what: str) -> int:
        if index is None:
            if count > 1:
                raise ImageReadError(
                    f'{self.name} holds {count} {what}: say which one with {key}, 0 to {count - 1}.'
                )
            return 0
        if not 0 <= index < count:
            raise ImageReadError(
                f'{self.name}: {key} {index} is out of range; the file has '
                f'{count} {what}, 0 to {count - 1}.'
            )
        return int(index)


def read_frame(
    path_or_bytes: str | os.PathLike | bytes,
    *,
    slice_index: int | None = None,
    frame_index: int | None = None,
) -> np.ndarray:
    """Read one image.

    Args:
        path_or_bytes: A local file, or the content of one. Uncompressed NIfTI and NumPy files
            given by their path are memory-mapped, so that only the wanted slice is read.
        slice_index: Position in space, needed where the file holds more than one.
        frame_index: Position in time, needed where the file holds more than one.

    Returns:
        float32 of shape (H, W) in modality units: DICOM rescale slope and intercept or the
        modality LUT are applied, MONOCHROME1 is inverted over its range of stored values, NIfTI
        scaling is applied. PNG and NumPy values are as stored.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageReadError: If the file is damaged or of an unknown format, has colours, NaN or
            infinite pixels, or has no such slice or frame.
        ImportError: If the package is missing that reads the format or decodes the DICOM
            transfer syntax; the message says which.
    """
    return open_image(path_or_bytes).frame(slice_index, frame_index)


def open_image(path_or_bytes: str | os.PathLike | bytes, name: str | None = None) -> ImageFile:
    """Open a file of any of the formats; see `read_frame` for arguments and errors.

    Args:
        name: What errors call the file; needed for bytes only.
    """
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        path, data = None, bytes(path_or_bytes)
        head, name = data[:352], name or f'the image of {len(data)} bytes'
    else:
        path, data = Path(path_or_bytes), None
        name = name or str(path)
        if not path.is_file():
            raise FileNotFoundError(f'There is no image file {name}.')
        with open(path, 'rb') as file:
            head = file.read(352)
    if not head:
        raise ImageReadError(f'{name} is empty (0 bytes).')

    opener = _find_opener(head)
    if opener is None:
        raise ImageReadError(
            f'{name} is of no known format. Supported: {FORMATS}; it begins with {head[:8]!r}.'
        )
    # These two are memory-mapped; nibabel goes by the suffix.
    mappable = path is not None and (opener is _open_npy or path.suffix == '.nii')
    try:
        return opener(path if mappable else data or path.read_bytes(), name)
    except (ImageReadError, ImportError):
        raise
    except Exception as error:  # the readers raise many types on damaged files
        raise ImageReadError(
            f'{name} cannot be read, it may be truncated or damaged: '
            f'{type(error).__name__}: {error}'
        ) from error


def window_percentile(
    image: np.ndarray, lower: float = 1.0, upper: float = 99.0, reference: np.ndarray | None = None
) -> np.ndarray:
    """Map the percentiles `lower` and `upper` to 0 and 1 and clip what is beyond.

    Args:
        image: Any shape.
        lower: In percent; likewise `upper`.
        reference: Where the percentiles are taken, for example the whole stack; else `image`.

    Returns:
        float32 of the image's shape in 0..1. Where both percentiles fall on the same value, the
        extremes take their place; a constant reference has no contrast to show and gives 0 up to
        its value and 1 above it.

    Raises:
        ValueError: If not 0 <= lower < upper <= 100.
    """
    return apply_window(
        image, *window_limits(image if reference is None else reference, lower, upper)
    )


def window_limits(
    reference: np.ndarray, lower: float = 1.0, upper: float = 99.0
) -> tuple[float, float]:
    """Return the two values that `window_percentile` maps to 0 and 1."""
    if not 0 <= lower < upper <= 100:
        raise ValueError(
            f'The window from percentile {lower} to {upper} is none: it needs '
            '0 <= lower < upper <= 100.'
        )
    low, high = np.percentile(reference, (lower, upper))
    if low == high:
        low, high = np.min(reference), np.max(reference)
    return float(low), float(high)


def apply_window(image: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 1, float32, and clip what is beyond."""
    if low == high:
        return (np.asarray(image) > high).astype(np.float32)
    return np.clip((np.asarray(image, np.float32) - low) / (high - low), 0, 1, dtype=np.float32)


def _find_opener(head: bytes) -> Callable[[Path | bytes, str], ImageFile] | None:
    if head.startswith(b'\x89PNG\r\n\x1a\n'):
        return _open_png
    if head[128:132] == b'DICM':
        return _open_dicom
    if head.startswith(b'\x93NUMPY'):
        return _open_npy
    if head.startswith(GZIP_MAGIC) or _is_nifti(head):
        return _open_nifti
    return None


def _is_nifti(head: bytes) -> bool:
    return head[344:348] == NIFTI_1_MAGIC or head[4:8] == NIFTI_2_MAGIC


def _open_png(data: bytes, name: str) -> ImageFile:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ImageReadError(f'{name} cannot be read: the PNG is truncated or damaged.')
    if pixels.ndim == 3:
        # Grey images are often stored as RGB.
        if not (pixels[..., :1] == pixels[..., 1:3]).all():
            raise ImageReadError(
                f'{name} has colours, but MR images are grey. Convert it to one channel.'
            )
        pixels = pixels[..., 0]
    return ImageFile(name, 1, 1, pixels.dtype == np.uint8, lambda z, t: pixels)


def _open_npy(source: Path | bytes, name: str) -> ImageFile:
    try:
        array = (
            np.load(io.BytesIO(source), allow_pickle=False)
            if isinstance(source, bytes)
            else np.load(source, mmap_mode='r', allow_pickle=False)
        )
    except ValueError as error:
        if 'allow_pickle' not in str(error) and 'Python objects' not in str(error):
            raise
        raise ImageReadError(
            f'{name} holds pickled Python objects, which could run any code '
            'when read. Save a numeric array.'
        ) from error
    if array.dtype.kind not in 'buif':
        raise ImageReadError(f'{name} holds {array.dtype}, not real numbers.')
    if not 2 <= array.ndim <= 4:
        raise ImageReadError(
            f'{name} has shape {array.shape}, but needs (rows, columns), '
            '(slices, rows, columns) or (frames, slices, rows, columns).'
        )
    array = array[(None,) * (4 - array.ndim)]
    return ImageFile(
        name, array.shape[1], array.shape[0], array.dtype == np.uint8, lambda z, t: array[t, z]
    )


def _open_nifti(source: Path | bytes, name: str) -> ImageFile:
    nibabel = _import('nibabel', name)
    if isinstance(source, bytes):
        content = gzip.decompress(source) if source.startswith(GZIP_MAGIC) else source
        if not _is_nifti(content):
            raise ImageReadError(f'{name} is gzip of something else than NIfTI.')
        kind = nibabel.Nifti2Image if content[4:8] == NIFTI_2_MAGIC else nibabel.Nifti1Image
        image = kind.from_bytes(content)
    else:
        image = nibabel.load(source)
    array, shape = image.dataobj, image.shape
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4:
        raise ImageReadError(
            f'{name} has shape {image.shape}, but needs 2 to 4 axes: columns, rows, slices, frames.'
        )
    if image.get_data_dtype().kind not in 'buif':
        raise ImageReadError(
            f'{name} holds {image.get_data_dtype()}, not one real number per voxel.'
        )

    def decode(z: int, t: int) -> np.ndarray:
        index = (slice(None), slice(None), z, t)[: len(shape)] + (0,) * (
            len(array.shape) - len(shape)
        )
        try:
            return np.asarray(array[index]).T
        except (OSError, ValueError) as error:
            raise ImageReadError(
                f'{name} cannot be read, it may be truncated or damaged: '
                f'{type(error).__name__}: {error}'
            ) from error

    num_slices, num_frames = (*shape[2:], 1, 1)[:2]
    return ImageFile(name, num_slices, num_frames, False, decode)


def _open_dicom(data: bytes, name: str) -> ImageFile:
    pydicom = _import('pydicom', name)
    dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(DICOM_PIXEL_TAGS))
    if not any(tag in dataset for tag in DICOM_PIXEL_TAGS[-3:]):
        raise ImageReadError(f'{name} has no pixel data: it is truncated, or no image.')
    if dataset.SamplesPerPixel != 1:
        raise ImageReadError(
            f'{name} has {dataset.SamplesPerPixel} samples per pixel '
            f'({dataset.PhotometricInterpretation}); an MR image has one. It may be a screenshot '
            'or a secondary capture: leave it out.'
        )
    num_frames = int(dataset.get('NumberOfFrames') or 1)

    def decode(z: int, t: int) -> np.ndarray:
        return _to_modality_units(dataset, _decode_dicom(dataset, t, num_frames, name), t)

    return ImageFile(name, 1, num_frames, False, decode)


def _decode_dicom(dataset, frame_index: int, num_frames: int, name: str) -> np.ndarray:
    """Stored values of a frame, shape (H, W)."""
    syntax = dataset.file_meta.get('TransferSyntaxUID')
    if syntax is None:
        raise ImageReadError(
            f'{name} has no transfer syntax (0002,0010): it is truncated, or '
            'written by a broken program.'
        )
    try:
        try:
            from pydicom.pixels import pixel_array  # decodes the one frame; pydicom 3
        except ImportError:
            pixels = dataset.pixel_array
            return pixels[frame_index] if num_frames > 1 else pixels
        return pixel_array(dataset, index=frame_index)
    except Exception as error:  # pydicom and its plugins raise many types
        package = DICOM_DECODERS.get(syntax)
        missing = 'missing dependencies' in str(error) or 'missing required' in str(error)
        if package and missing:
            raise ImportError(
                f'{name} is compressed as {syntax.name}, which needs another '
                f'package: pip install {package}'
            ) from error
        raise ImageReadError(
            f'{name}: its pixels cannot be decoded as {syntax.name}; it is truncated, or of '
            f'another transfer syntax than it says: {type(error).__name__}: {error}'
        ) from error


def _to_modality_units(dataset, stored: np.ndarray, frame_index: int) -> np.ndarray:
    """Apply rescale or modality LUT, then MONOCHROME1 (DICOM PS3.3, C.11.1 and C.7.6.3.1.2)."""
    try:
        from pydicom.pixels import apply_modality_lut
    except ImportError:  # pydicom 2
        from pydicom.pixel_data_handlers import apply_modality_lut

    # Enhanced MR objects have a rescale of each frame, or one that the frames share.
    source = dataset
    for groups, index in (
        ('SharedFunctionalGroupsSequence', 0),
        ('PerFrameFunctionalGroupsSequence', frame_index),
    ):
        items = dataset.get(groups) or ()
        transformation = index < len(items) and items[index].get('PixelValueTransformationSequence')
        if transformation:
            source = transformation[0]
    image = apply_modality_lut(stored, source)
    if dataset.PhotometricInterpretation == 'MONOCHROME1' and stored.dtype.kind in 'iu':
        # Over the range of what can be stored, so that all slices of a series stay comparable.
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        lowest = -(1 << bits - 1) if signed else 0
        extremes = np.array([lowest, lowest + (1 << bits) - 1], stored.dtype)
        image = np.sum(apply_modality_lut(extremes, source), dtype=np.float64) - image
    return image


def _import(package: str, name: str):
    try:
        return __import__(package)
    except ImportError as error:
        raise ImportError(
            f'Reading {name} needs the package {package}: pip install {package}'
        ) from error
