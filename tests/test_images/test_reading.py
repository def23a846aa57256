import csv
import gzip

import cv2
import numpy as np
import pytest

from image_files import (
    EXPLICIT_LITTLE_ENDIAN,
    RLE_LOSSLESS,
    dicom_bytes,
    make_dicom,
    nifti_bytes,
    npy_bytes,
)
from swin_ext.images.reading import ImageReadError, read_frame, window_percentile

RNG = np.random.default_rng(0)
MR = RNG.integers(0, 1400, (40, 48)).astype(np.uint16)
SIGNED = MR.astype(np.int16) - 300
VOLUME = RNG.integers(0, 900, (32, 24, 5, 3)).astype(np.int16)  # x, y, z, t


def png_bytes(array):
    return cv2.imencode('.png', array)[1].tobytes()


@pytest.mark.parametrize('array', [MR, (MR // 8).astype(np.uint8)], ids=['16 bit', '8 bit'])
def test_png_values_are_as_stored(array):
    frame = read_frame(png_bytes(array))
    assert frame.dtype == np.float32 and np.array_equal(frame, array)


def test_grey_png_stored_as_rgb():
    grey = (MR // 8).astype(np.uint8)
    assert np.array_equal(read_frame(png_bytes(np.stack([grey] * 3, -1))), grey)


@pytest.mark.parametrize('stored', [MR, SIGNED, MR.astype(np.uint8)], ids=['u2', 'i2', 'u1'])
@pytest.mark.parametrize('slope, intercept', [(None, None), (2, -1024), (0.25, 7.5)])
def test_dicom_rescale(stored, slope, intercept):
    rescale = {} if slope is None else dict(RescaleSlope=slope, RescaleIntercept=intercept)
    frame = read_frame(dicom_bytes(make_dicom(stored, **rescale)))
    assert np.allclose(frame, stored.astype(float) * (slope or 1) + (intercept or 0))


@pytest.mark.parametrize(
    'stored, bits, lowest',
    [(MR, 16, 0), (MR, 12, 0), (SIGNED, 16, -(2**15)), (MR.astype(np.uint8), 8, 0)],
)
def test_monochrome1_is_turned_over_within_its_range(stored, bits, lowest):
    dataset = make_dicom(
        stored,
        PhotometricInterpretation='MONOCHROME1',
        BitsStored=bits,
        HighBit=bits - 1,
        RescaleSlope=2,
        RescaleIntercept=5,
    )
    highest = lowest + 2**bits - 1
    expected = 2.0 * (lowest + highest - stored.astype(float)) + 5
    assert np.array_equal(read_frame(dicom_bytes(dataset)), expected.astype(np.float32))


def test_frames_of_multi_frame_dicom():
    frames = np.stack([MR, MR + 1, MR + 2])
    data = dicom_bytes(make_dicom(frames))
    for t in range(3):
        assert np.array_equal(read_frame(data, frame_index=t), frames[t])


def test_rescale_of_each_frame_in_enhanced_dicom():
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def group(slope):
        transformation, item = Dataset(), Dataset()
        transformation.RescaleSlope, transformation.RescaleIntercept = slope, 10
        item.PixelValueTransformationSequence = Sequence([transformation])
        return item

    data = dicom_bytes(
        make_dicom(
            np.stack([MR, MR]), PerFrameFunctionalGroupsSequence=Sequence([group(2), group(3)])
        )
    )
    for t, slope in enumerate((2, 3)):
        assert np.array_equal(read_frame(data, frame_index=t), MR * slope + 10.0)


# Encoding each takes the package named.
COMPRESSED = [
    ('1.2.840.10008.1.2.1.99', None),  # deflated
    ('1.2.840.10008.1.2.5', None),  # RLE lossless
    ('1.2.840.10008.1.2.4.80', 'jpeg_ls'),
    ('1.2.840.10008.1.2.4.90', 'openjpeg'),
]


@pytest.mark.parametrize('syntax, package', COMPRESSED)
@pytest.mark.parametrize('stored', [MR, np.stack([MR, MR + 7])], ids=['single', 'multi-frame'])
def test_lossless_transfer_syntaxes_give_the_uncompressed_array(syntax, package, stored):
    pytest.importorskip('pydicom', minversion='3' if package else '2')
    if package:
        pytest.importorskip(package, reason=f'{package} encodes {syntax}')
    dataset = make_dicom(stored, RescaleSlope=2, RescaleIntercept=-3)
    if syntax.endswith('.1.99'):
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    data = dicom_bytes(dataset)
    for t, frame in enumerate(stored.reshape(-1, *MR.shape)):
        assert np.array_equal(read_frame(data, frame_index=t), frame * 2.0 - 3)


def test_missing_decoder_names_the_package(monkeypatch):
    pytest.importorskip('pydicom', minversion='3')
    pytest.importorskip('openjpeg', reason='openjpeg encodes JPEG 2000')
    from pydicom.pixels import get_decoder

    dataset = make_dicom(MR)
    dataset.compress('1.2.840.10008.1.2.4.90')
    data = dicom_bytes(dataset)
    decoder = get_decoder('1.2.840.10008.1.2.4.90')
    monkeypatch.setattr(decoder, '_available', {})
    with pytest.raises(ImportError, match='JPEG 2000 .* pip install pylibjpeg-openjpeg'):
        read_frame(data)


def test_missing_reader_names_the_package(monkeypatch):
    data = nifti_bytes(VOLUME)
    monkeypatch.setitem(__import__('sys').modules, 'nibabel', None)
    with pytest.raises(ImportError, match='pip install nibabel'):
        read_frame(data, slice_index=0, frame_index=0)


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz', None])
@pytest.mark.parametrize('scale', [(1.0, 0.0), (0.5, 3.0)])
def test_nifti_slices_have_rows_along_the_second_axis(tmp_path, suffix, scale):
    data = nifti_bytes(VOLUME, *scale)
    source = data
    if suffix:
        source = tmp_path / f'volume{suffix}'
        source.write_bytes(gzip.compress(data) if suffix == '.nii.gz' else data)
    for z, t in ((0, 0), (4, 2), (2, 1)):
        expected = VOLUME[:, :, z, t].T * scale[0] + scale[1]
        assert np.array_equal(read_frame(source, slice_index=z, frame_index=t), expected)


def test_npy_axes(tmp_path):
    array = RNG.normal(size=(3, 5, 24, 32)).astype(np.float32)
    path = tmp_path / 'cine.npy'
    np.save(path, array)
    assert np.array_equal(read_frame(path, slice_index=4, frame_index=1), array[1, 4])
    assert np.array_equal(read_frame(npy_bytes(array[0]), slice_index=2), array[0, 2])
    assert np.array_equal(read_frame(npy_bytes(array[0, 0])), array[0, 0])


def change_syntax(data, to):
    """Say that a file's transfer syntax is another one, without any change to its pixels."""
    old = EXPLICIT_LITTLE_ENDIAN.encode() + b'\0'
    new = to.encode() + b'\0'
    assert data.count(old) == 1 and len(old) == len(new)
    return data.replace(old, new)


NAN_VOLUME = VOLUME[..., 0].astype(np.float32)
NAN_VOLUME[3, 4, 2] = np.nan
NAN_VOLUME[3, 5, 2] = np.inf

BAD_INPUT = {
    'zero bytes': (lambda: b'', {}, 'is empty'),
    'text': (lambda: b'no image at all', {}, 'no known format. Supported: PNG'),
    'bmp': (
        lambda: cv2.imencode('.bmp', (MR // 8).astype(np.uint8))[1].tobytes(),
        {},
        'no known format',
    ),
    'truncated jpeg': (
        lambda: cv2.imencode('.jpg', (MR // 8).astype(np.uint8))[1].tobytes()[:-200],
        {},
        'truncated',
    ),
    'truncated png': (lambda: png_bytes(MR)[:400], {}, 'truncated'),
    'colour png': (
        lambda: png_bytes(RNG.integers(0, 255, (8, 8, 3)).astype(np.uint8)),
        {},
        'has colours',
    ),
    'dicom cut in its header': (lambda: dicom_bytes(make_dicom(MR))[:400], {}, 'truncated'),
    'dicom cut in its meta header': (lambda: dicom_bytes(make_dicom(MR))[:140], {}, 'truncated'),
    'dicom cut in its pixels': (
        lambda: dicom_bytes(make_dicom(MR))[:-100],
        {},
        'truncated, or of another transfer syntax',
    ),
    'wrong transfer syntax': (
        lambda: change_syntax(dicom_bytes(make_dicom(MR)), to=RLE_LOSSLESS),
        {},
        'RLE Lossless; it is truncated, or of another transfer syntax|may be truncated',
    ),
    'rgb dicom': (
        lambda: dicom_bytes(make_dicom(np.zeros((8, 9, 3), np.uint8))),
        {},
        r'3 samples per pixel \(RGB\)',
    ),
    'dicom frame out of range': (
        lambda: dicom_bytes(make_dicom(np.stack([MR, MR]))),
        dict(frame_index=2),
        'frame_index 2 is out of range.* 2 frames',
    ),
    'dicom frame not said': (
        lambda: dicom_bytes(make_dicom(np.stack([MR, MR]))),
        {},
        'holds 2 frames: say which',
    ),
    'dicom has no slices': (
        lambda: dicom_bytes(make_dicom(MR)),
        dict(slice_index=3),
        'slice_index 3 is out of range',
    ),
    'nan nifti': (
        lambda: nifti_bytes(NAN_VOLUME),
        dict(slice_index=2),
        'slice 2, frame 0: 2 of 768 pixels are NaN or infinite',
    ),
    'nifti slice out of range': (
        lambda: nifti_bytes(VOLUME[..., 0]),
        dict(slice_index=5),
        'slice_index 5 is out of range; the file has 5 slices, 0 to 4',
    ),
    'negative slice': (lambda: nifti_bytes(VOLUME[..., 0]), dict(slice_index=-1), 'out of range'),
    'nifti slice not said': (lambda: nifti_bytes(VOLUME[..., 0]), {}, 'holds 5 slices'),
    'truncated nifti': (
        lambda: nifti_bytes(VOLUME)[:2000],
        dict(slice_index=4, frame_index=2),
        'truncated',
    ),
    'truncated gzip': (
        lambda: gzip.compress(nifti_bytes(VOLUME))[:2000],
        dict(slice_index=0, frame_index=0),
        'truncated',
    ),
    'gzip of text': (lambda: gzip.compress(b'text' * 200), {}, 'gzip of something else'),
    'rgb nifti': (
        lambda: nifti_bytes(np.zeros((4, 4, 2), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])),
        dict(slice_index=0),
        'not one real number per voxel',
    ),
    'pickled npy': (
        lambda: npy_bytes(np.array([{}, []], object), allow_pickle=True),
        {},
        'pickled Python objects',
    ),
    'text npy': (lambda: npy_bytes(np.array([['a', 'b']])), {}, 'not real numbers'),
    'complex npy': (lambda: npy_bytes(np.zeros((4, 4), complex)), {}, 'not real numbers'),
    'flat npy': (lambda: npy_bytes(np.zeros(4)), {}, r'has shape \(4,\)'),
    'truncated npy': (lambda: npy_bytes(np.zeros((40, 40)))[:-8], {}, 'truncated'),
    'npy beyond float32': (lambda: npy_bytes(np.full((4, 4), 1e300)), {}, '16 of 16 .* infinite'),
}


@pytest.mark.parametrize('case', BAD_INPUT)
@pytest.mark.parametrize('as_path', [True, False])
def test_bad_input(case, as_path, tmp_path):
    make, index, message = BAD_INPUT[case]
    source = make()
    if as_path:
        path = tmp_path / 'slice.nii' if 'nifti' in case else tmp_path / 'slice'
        path.write_bytes(source)
        message = f'(?s){path.name}.*({message})'
        source = path
    with pytest.raises(ImageReadError, match=message):
        read_frame(source, **index)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no image file .*nothing.dcm'):
        read_frame(tmp_path / 'nothing.dcm')


def test_identifying_elements_are_not_parsed(monkeypatch):
    import pydicom

    read = pydicom.dcmread
    seen = []
    monkeypatch.setattr(pydicom, 'dcmread', lambda *a, **k: seen.append(read(*a, **k)) or seen[0])
    read_frame(dicom_bytes(make_dicom(MR)))
    assert 'Rows' in seen[0] and 'PatientName' not in seen[0]


def test_window_is_that_of_the_percentiles():
    image = np.arange(1001, dtype=np.float32).reshape(7, 143)
    windowed = window_percentile(image, 10, 60)
    assert windowed.dtype == np.float32
    assert np.allclose(windowed, np.clip((image - 100) / 500, 0, 1))
    assert np.allclose(
        window_percentile(image, 0, 100, reference=np.array([0.0, 4000.0])), image / 4000
    )


def test_window_of_images_without_contrast():
    constant = np.full((4, 4), 7.0)
    assert not window_percentile(constant).any()
    spot = np.zeros((20, 20))
    spot[3, 4] = 9.0
    assert np.array_equal(window_percentile(spot, 1, 99), spot / 9)  # by the extremes


@pytest.mark.parametrize('lower, upper', [(50, 50), (99, 1), (-1, 99), (1, 101)])
def test_impossible_window(lower, upper):
    with pytest.raises(ValueError, match='0 <= lower < upper <= 100'):
        window_percentile(MR, lower, upper)


def test_dicom_agrees_with_the_png_of_the_same_name(real_data):
    with open(real_data / 'sunnybrook_dicom/link.csv') as file:
        names = {row['patient_id']: row['original_id'] for row in csv.DictReader(file)}
    paths = sorted((real_data / 'sunnybrook_dicom/dicom').glob('*/*.dcm'))
    assert len(paths) == 96
    for path in paths:
        group, number = names[path.parent.name].rsplit('-', 1)
        png = f'{group}-{int(number):02d}-IM-0001-{int(path.stem):04d}.png'
        expected = cv2.imread(str(real_data / 'sunnybrook_png/images' / png), cv2.IMREAD_UNCHANGED)
        assert np.corrcoef(read_frame(path).ravel(), expected.ravel())[0, 1] >= 0.9998, path


def test_nifti_agrees_with_the_png_of_the_same_slice(real_data):
    paths = sorted((real_data / 'autofd_nifti/coco/images').glob('*.png'))
    assert len(paths) == 65
    for path in paths:
        subject, z = path.stem.split('_z')
        nifti = real_data / f'autofd_nifti/nifti/{subject}/sa_ED.nii.gz'
        expected = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        frame = read_frame(nifti, slice_index=int(z), frame_index=0)
        assert frame.shape == expected.shape
        assert np.corrcoef(frame.ravel(), expected.ravel())[0, 1] >= 0.9998, path
