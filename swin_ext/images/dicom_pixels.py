"""Pixels of DICOM files in modality units (PS3.3, C.7.6.3 and C.11.1)."""

from __future__ import annotations

import io
import math
import zlib
from importlib.util import find_spec

import numpy as np

from swin_ext.images.bare_dicom import begins_with_element
from swin_ext.images.codestreams import size_of
from swin_ext.images.image_file import Content, ImageFile, ImageReadError, check_size
from swin_ext.utils.optional import import_optional, missing

# The elements that the pixels depend on. Those that identify a patient are not even parsed.
PIXEL_TAGS = (
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

# Which package decodes which compressed transfer syntax (PS3.5, annex A). Pillow, which comes with
# others, decodes JPEG of 8 bits alone, and GDCM no JPEG Extended of 12 bits through pydicom.
JPEG, JPEG_LS, JPEG_2000 = (
    ('pylibjpeg-libjpeg', 'pylibjpeg'),
    ('pyjpegls',),
    ('pylibjpeg-openjpeg', 'pylibjpeg'),
)
JPEG_EXTENDED = '1.2.840.10008.1.2.4.51'
DECODERS = {
    '1.2.840.10008.1.2.4.50': JPEG,
    JPEG_EXTENDED: JPEG,
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
DEFLATED = b'1.2.840.10008.1.2.1.99'
MAX_INFLATED_BYTES = 2**30


def open_dicom(content: Content) -> ImageFile:
    """Open a DICOM file with one sample per pixel."""
    name = content.name
    pydicom = import_optional('pydicom', f'Reading {name}')
    data = content.read()
    _check_deflated(data, name)
    bare = begins_with_element(data[:132]) and data[128:132] != b'DICM'
    dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=list(PIXEL_TAGS), force=bare)
    if bare and 'TransferSyntaxUID' not in dataset.file_meta:
        # Without file meta information nothing is compressed, and pydicom found out the rest.
        implicit, little = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = (
            pydicom.uid.ImplicitVRLittleEndian
            if implicit
            else pydicom.uid.ExplicitVRLittleEndian
            if little
            else pydicom.uid.ExplicitVRBigEndian
        )
    if not any(tag in dataset for tag in PIXEL_TAGS[-3:]):
        raise ImageReadError(f'{name} has no pixel data: it is truncated, or no image.')
    colours = dataset.PhotometricInterpretation
    if dataset.SamplesPerPixel != 1 or colours not in ('MONOCHROME1', 'MONOCHROME2'):
        raise ImageReadError(
            f'{name} has {dataset.SamplesPerPixel} samples per pixel ({colours}); an MR image has '
            'one, which is grey. It may be a screenshot, a secondary capture or a coloured map: '
            'leave it out.'
        )
    check_size(name, dataset.Rows, dataset.Columns)
    _check_bits(dataset, name)
    num_frames = int(dataset.get('NumberOfFrames') or 1)

    def decode(z: int, t: int) -> np.ndarray:
        return _to_modality_units(dataset, _decode(dataset, t, num_frames, name), t, name)

    return ImageFile(name, 1, num_frames, False, decode)


def _check_deflated(data: bytes, name: str) -> None:
    """Raise an `ImageReadError` where a deflated data set inflates to more than memory may hold."""
    if DEFLATED not in data[:2048]:
        return
    # The meta header says its length in its first element, of 12 bytes (PS3.10, 7.1).
    start = 144 + int.from_bytes(data[140:144], 'little')
    inflater, size, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, data[start:]
    while rest and not inflater.eof and size <= MAX_INFLATED_BYTES:
        size += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
    if size > MAX_INFLATED_BYTES:
        raise ImageReadError(
            f'{name} of {len(data)} bytes inflates to more than {MAX_INFLATED_BYTES}. '
            'It may be damaged.'
        )


def _check_bits(dataset, name: str) -> None:
    """Refuse where the stored bits of a pixel are not the lowest ones, as PS3.5, 8.1.1 asks for.

    Before 2009 they could lie elsewhere, but files that say so mean it or not.
    """
    stored, high = dataset.get('BitsStored'), dataset.get('HighBit')
    if stored is not None and high is not None and high != stored - 1:
        raise ImageReadError(
            f'{name} has BitsStored {stored}, but HighBit {high}: what its pixels mean is not '
            f'known. Correct HighBit to {stored - 1} if their lowest {stored} bits hold the values.'
        )


def _decode(dataset, frame_index: int, num_frames: int, name: str) -> np.ndarray:
    """Stored values of a frame, shape (H, W)."""
    syntax = dataset.file_meta.get('TransferSyntaxUID')
    if syntax is None:
        raise ImageReadError(
            f'{name} has no transfer syntax (0002,0010): it is truncated, or '
            'written by a broken program.'
        )
    try:
        from pydicom.encaps import get_frame
        from pydicom.pixels import pixel_array  # decodes the one frame
    except ImportError:  # pydicom 2
        get_frame = pixel_array = None
    if get_frame and syntax in DECODERS:
        # Decoders ask for the memory that the image itself says, before they find it damaged.
        offsets = [dataset.get(f'ExtendedOffsetTable{part}') for part in ('', 'Lengths')]
        frame = get_frame(
            dataset.PixelData,
            frame_index,
            number_of_frames=num_frames,
            extended_offsets=tuple(offsets) if None not in offsets else None,
        )
        size = size_of(frame)
        if size not in (None, (dataset.Rows, dataset.Columns)):
            raise ImageReadError(
                f'{name} has Rows {dataset.Rows} and Columns {dataset.Columns}, but the '
                f'compressed image in it is of {size[0]} and {size[1]}. It is damaged.'
            )
    try:
        if pixel_array:
            return pixel_array(dataset, index=frame_index)
        pixels = dataset.pixel_array
        return pixels[frame_index] if num_frames > 1 else pixels
    except Exception as error:  # pydicom and its plugins raise many types
        no_decoder = 'missing dependencies' in str(error) or 'missing required' in str(error)
        is_12_bit = syntax == JPEG_EXTENDED and dataset.BitsStored > 8
        if syntax in DECODERS and (no_decoder or (is_12_bit and find_spec('libjpeg') is None)):
            raise missing(
                f'{name} is compressed as {syntax.name}, which', *DECODERS[syntax]
            ) from error
        raise ImageReadError(
            f'{name}: its pixels cannot be decoded as {syntax.name}; it is truncated, or of '
            f'another transfer syntax than it says: {type(error).__name__}: {error}'
        ) from error


def _to_modality_units(dataset, stored: np.ndarray, frame_index: int, name: str) -> np.ndarray:
    """Apply rescale or modality LUT, then MONOCHROME1 (C.11.1 and C.7.6.3.1.2)."""
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
    image = _rescale(stored, source, dataset, name)
    if dataset.PhotometricInterpretation == 'MONOCHROME1' and stored.dtype.kind in 'iu':
        # Over the range of what can be stored, so that all slices of a series stay comparable.
        bits, signed = dataset.BitsStored, dataset.PixelRepresentation
        lowest = -(1 << bits - 1) if signed else 0
        extremes = np.array([lowest, lowest + (1 << bits) - 1], stored.dtype)
        ends = _rescale(extremes, source, dataset, name)
        image = np.sum(ends, dtype=np.float64) - image
    return image


def _rescale(stored: np.ndarray, source, dataset, name: str) -> np.ndarray:
    """Apply the modality LUT of `source`, or its rescale slope and intercept."""
    if source.get('ModalityLUTSequence'):
        return _look_up(stored, source.ModalityLUTSequence[0], dataset, name)
    # Some programs write the elements without a value.
    slope, intercept = (
        default if source.get(key) in (None, '') else float(source[key].value)
        for key, default in (('RescaleSlope', 1.0), ('RescaleIntercept', 0.0))
    )
    if not math.isfinite(slope) or not math.isfinite(intercept) or slope == 0:
        raise ImageReadError(
            f'{name} has RescaleSlope {slope:g} and RescaleIntercept {intercept:g}, which leave '
            'no image. Correct them.'
        )
    if slope == 1 and intercept == 0:
        return stored
    return stored.astype(np.float64) * slope + intercept


def _look_up(stored: np.ndarray, item, dataset, name: str) -> np.ndarray:
    """Apply a modality LUT of 8 to 16 bits an entry (C.11.1.1.1); pydicom knows 8 and 16."""
    count, first, bits = (int(value) for value in item.LUTDescriptor)
    count = count or 2**16
    if dataset.PixelRepresentation == 1 and first >= 2**15:  # was parsed as unsigned
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        is_packed = bits == 8 and len(data) in (count, count + 1)
        order = '<' if dataset.file_meta.TransferSyntaxUID.is_little_endian else '>'
        data = np.frombuffer(data[: len(data) // 2 * 2], np.uint8 if is_packed else f'{order}u2')
    table = np.atleast_1d(np.asarray(data, np.uint16))[:count]
    if not 8 <= bits <= 16 or len(table) < count:
        raise ImageReadError(
            f'{name} has a modality LUT that is said to be of {count} entries of {bits} bits, but '
            f'{len(table)} entries are there.'
        )
    return table[np.clip(stored.astype(np.int64) - first, 0, count - 1)]
