"""What DICOM headers may say about pixels, and contradict."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from image_files import dicom_bytes, make_dicom
from swin_ext.images import codestreams, dicom_pixels
from swin_ext.images.reading import ImageReadError, read_frame

pydicom = pytest.importorskip('pydicom', minversion='3')
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402

MR = np.random.default_rng(0).integers(0, 1400, (20, 24)).astype(np.uint16)


@pytest.mark.parametrize('slope', ['absent', None, '1', '2', '0.5', '-1'])
@pytest.mark.parametrize('intercept', ['absent', None, '0', '-1024', '7.5'])
def test_rescale_may_be_absent_or_empty(slope, intercept):
    given = dict(RescaleSlope=slope, RescaleIntercept=intercept)
    elements = {key: value for key, value in given.items() if value != 'absent'}
    expected = MR * (1.0 if slope in ('absent', None) else float(slope))
    expected += 0.0 if intercept in ('absent', None) else float(intercept)
    assert np.array_equal(read_frame(dicom_bytes(make_dicom(MR, **elements))), expected)


@pytest.mark.parametrize('key', ['RescaleSlope', 'RescaleIntercept'])
@pytest.mark.parametrize('value', [b'nan ', b'inf ', b'-inf', b'abc ', b'1\\2 '])
def test_impossible_rescale(key, value):
    data = dicom_bytes(make_dicom(MR, **{key: '7777'}))
    assert data.count(b'7777') == 1
    with pytest.raises(ImageReadError, match='the image of .* bytes'):
        read_frame(data.replace(b'7777', value))


def test_rescale_slope_of_zero():
    with pytest.raises(ImageReadError, match='RescaleSlope 0'):
        read_frame(dicom_bytes(make_dicom(MR, RescaleSlope=0, RescaleIntercept=3)))


def with_lut(stored, table, first, bits, vr, **elements):
    item = Dataset()
    signed = stored.dtype.kind == 'i'
    item.add_new('LUTDescriptor', 'SS' if signed else 'US', [len(table), first, bits])
    if vr == 'OW':
        item.add_new('LUTData', 'OW', np.asarray(table, '<u2').tobytes())
    elif vr == 'OW, packed':
        item.add_new('LUTData', 'OW', np.asarray(table, np.uint8).tobytes())
    else:
        item.add_new('LUTData', 'US', [int(value) for value in table])
    item.ModalityLUTType = 'US'
    return dicom_bytes(make_dicom(stored, ModalityLUTSequence=Sequence([item]), **elements))


@pytest.mark.parametrize('bits', [8, 10, 12, 14, 16])
@pytest.mark.parametrize('vr', ['OW', 'US'])
@pytest.mark.parametrize('first', [0, 200, -100])
def test_modality_lut(bits, vr, first):
    """Entry i is the value of first + i; what is beyond takes the first or the last entry."""
    stored = MR.astype(np.int16 if first < 0 else np.uint16) - (300 if first < 0 else 0)
    table = np.random.default_rng(1).integers(0, 2**bits, 1000)
    expected = [[table[min(max(int(v) - first, 0), 999)] for v in row] for row in stored]
    # A rescale beside a LUT is not allowed; the LUT goes first, as in pydicom.
    data = with_lut(stored, table, first, bits, vr, RescaleSlope=3, RescaleIntercept=1)
    assert np.array_equal(read_frame(data), expected)


def test_modality_lut_of_packed_bytes():
    table = np.random.default_rng(1).integers(0, 256, 1000)
    data = with_lut(MR, table, 0, 8, 'OW, packed')
    assert np.array_equal(read_frame(data), table[np.minimum(MR, 999)])


@pytest.mark.parametrize('count, bits', [(2000, 12), (1000, 7), (1000, 32)])
def test_modality_lut_that_contradicts_itself(count, bits):
    item = Dataset()
    item.add_new('LUTDescriptor', 'US', [count, 0, bits])
    item.add_new('LUTData', 'OW', bytes(2000))
    with pytest.raises(ImageReadError, match=f'{count} entries of {bits} bits, but 1000'):
        read_frame(dicom_bytes(make_dicom(MR, ModalityLUTSequence=Sequence([item]))))


@pytest.mark.parametrize('interpretation', ['PALETTE COLOR', 'RGB', 'YBR_FULL', 'ARGB'])
@pytest.mark.parametrize('planar', [0, 1])
def test_colours_are_refused(interpretation, planar):
    samples = 1 if interpretation == 'PALETTE COLOR' else 3
    pixels = MR.astype(np.uint8) if samples == 1 else np.zeros((8, 9, 3), np.uint8)
    dataset = make_dicom(
        pixels, PhotometricInterpretation=interpretation, PlanarConfiguration=planar
    )
    with pytest.raises(ImageReadError, match=f'{samples} samples per pixel .{interpretation}'):
        read_frame(dicom_bytes(dataset))


@pytest.mark.parametrize('stored, high', [(12, 15), (12, 12), (16, 11), (10, 11)])
def test_high_bit_that_is_not_that_of_the_stored_bits(stored, high):
    with pytest.raises(ImageReadError, match=f'BitsStored {stored}, but HighBit {high}'):
        read_frame(dicom_bytes(make_dicom(MR, BitsStored=stored, HighBit=high)))


@pytest.mark.parametrize('signed', [False, True])
def test_unused_high_bits_do_not_count(signed):
    """PS3.5, 8.1.1: they may hold overlays; a value's sign is in its highest stored bit."""
    values = (MR.astype(int) - 700) if signed else MR.astype(int)
    garbage = np.random.default_rng(2).integers(0, 16, MR.shape) << 12
    stored = ((values & 0xFFF) | garbage).astype(np.uint16)
    dataset = make_dicom(stored.view(np.int16 if signed else np.uint16), BitsStored=12, HighBit=11)
    assert np.array_equal(read_frame(dicom_bytes(dataset)), values)


@pytest.mark.parametrize(
    'elements',
    [
        dict(Rows=65535, Columns=65535),
        dict(Rows=65535),
        dict(NumberOfFrames=2**31 - 1),
        dict(Rows=0),
        dict(BitsAllocated=64),
        dict(BitsStored=17, HighBit=16),
        dict(BitsAllocated=0),
        dict(PixelRepresentation=7),
    ],
    ids=str,
)
def test_headers_that_promise_more_than_there_is(elements):
    with pytest.raises(ImageReadError):
        read_frame(dicom_bytes(make_dicom(MR, **elements)), frame_index=0)


@pytest.mark.parametrize(
    'missing', ['Rows', 'SamplesPerPixel', 'BitsAllocated', 'PhotometricInterpretation']
)
def test_elements_that_are_missing(missing):
    dataset = make_dicom(MR)
    delattr(dataset, missing)
    with pytest.raises(ImageReadError, match='the image of'):
        read_frame(dicom_bytes(dataset))


def test_deflated_files_inflate_within_bounds(monkeypatch):
    dataset = make_dicom(MR)
    dataset.file_meta.TransferSyntaxUID = '1.2.840.10008.1.2.1.99'
    assert np.array_equal(read_frame(dicom_bytes(dataset)), MR)
    data = dicom_bytes(dataset)
    start = 144 + struct.unpack('<I', data[140:144])[0]
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[start:])
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = data[:start] + packer.compress(content + bytes(2**22)) + packer.flush()
    monkeypatch.setattr(dicom_pixels, 'MAX_INFLATED_BYTES', 2**21)
    with pytest.raises(ImageReadError, match='inflates to more than'):
        read_frame(bomb)


def test_jpeg_extended_needs_the_package_that_the_hint_names(monkeypatch):
    path = pydicom.data.get_testdata_file('JPGExtended.dcm', download=False)
    try:
        import libjpeg  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match='JPEG Extended .* pip install pylibjpeg-libjpeg'):
            read_frame(path)
    else:
        assert read_frame(path).shape == (1024, 256)


@pytest.mark.parametrize('height, width', [(64, 60000), (60000, 60000), (2**31, 2**31), (64, 63)])
def test_jpeg_2000_of_another_size_than_the_header_says(height, width):
    """Decoders would ask for gigabytes, and minutes, before they find nothing there."""
    path = pydicom.data.get_testdata_file('MR_small_jp2klossless.dcm', download=False)
    with open(path, 'rb') as file:
        data = bytearray(file.read())
    start = data.index(b'\xff\x4f\xff\x51')
    assert struct.unpack('>II', data[start + 8 : start + 16]) == (64, 64)
    for offset in (8, 24):  # the image, and its tiles
        struct.pack_into('>II', data, start + offset, width, height)
    with pytest.raises(ImageReadError, match='Rows 64 and Columns 64, but the compressed image'):
        read_frame(bytes(data))


@pytest.mark.parametrize(
    'name, size',
    [
        ('JPEG2000.dcm', (1024, 256)),
        ('MR_small_jpeg_ls_lossless.dcm', (64, 64)),
        ('JPGExtended.dcm', (1024, 256)),
        ('SC_rgb_jpeg_gdcm.dcm', (100, 100)),
        ('SC_rgb_small_odd_jpeg.dcm', (3, 3)),
    ],
)
def test_size_that_a_compressed_image_says(name, size):
    path = pydicom.data.get_testdata_file(name, download=False)
    frame = pydicom.encaps.get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    assert codestreams.size_of(frame) == size
    assert codestreams.size_of(frame[:3]) is None


@pytest.mark.parametrize('extended', [False, True])
def test_frames_are_found_by_either_table_of_offsets(extended):
    pytest.importorskip('openjpeg', reason='openjpeg encodes JPEG 2000')
    large = np.tile(MR, (2, 2))  # as openjpeg asks for
    frames = np.stack([large, large + 1, large + 2])
    dataset = make_dicom(frames)
    dataset.compress('1.2.840.10008.1.2.4.90')
    if extended:
        parts = list(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=3))
        encapsulated = pydicom.encaps.encapsulate_extended(parts)
        dataset.PixelData, dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = (
            encapsulated
        )
    for t in range(3):
        assert np.array_equal(read_frame(dicom_bytes(dataset), frame_index=t), frames[t])
