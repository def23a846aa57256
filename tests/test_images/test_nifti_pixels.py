"""NIfTI files of all types, packed and in pairs, and headers that promise what is not there."""

from __future__ import annotations

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from image_files import nifti_bytes
from swin_ext.images import nifti_pixels
from swin_ext.images.nifti_pixels import CACHE
from swin_ext.images.reading import ImageReadError, open_image, read_frame

nibabel = pytest.importorskip('nibabel')
VOLUME = np.random.default_rng(0).integers(0, 200, (9, 7, 5, 3))  # x, y, z, t
REAL = ['u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'u8', 'i8', 'f4', 'f8']


def as_nibabel_reads(path, z, t):
    array = nibabel.load(path).get_fdata()
    return array.reshape((*array.shape, 1, 1)[:4])[:, :, z, t].T


@pytest.mark.parametrize('kind', [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
@pytest.mark.parametrize('suffix', ['', '.gz'])
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('dtype', REAL)
def test_values_are_those_of_nibabel(tmp_path, kind, suffix, order, dtype):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(order + dtype)
    image = kind(VOLUME.astype(dtype), np.eye(4), header)
    image.header.set_slope_inter(0.5, -3)
    is_pair = kind is nibabel.Nifti1Pair
    path = tmp_path / f'cine.{"img" if is_pair else "nii"}{suffix}'
    nibabel.save(image, path)
    names = [path, tmp_path / f'cine.hdr{suffix}'] if is_pair else [path]
    for name in names:
        file = open_image(name)
        assert (file.num_slices, file.num_frames, file.is_display) == (5, 3, False)
        for z, t in ((0, 0), (4, 2), (3, 1)):
            expected = as_nibabel_reads(path, z, t).astype(np.float32)
            assert np.array_equal(file.frame(z, t), expected)


@pytest.mark.parametrize('shape', [(9, 7), (9, 7, 1), (9, 7, 5), (9, 7, 5, 3, 1), (9, 7, 1, 3)])
def test_axes_that_may_be_absent(tmp_path, shape):
    path = tmp_path / 'a.nii'
    nibabel.save(
        nibabel.Nifti1Image(
            VOLUME[:, :, :5, :3].ravel()[: np.prod(shape)].reshape(shape).astype(np.int16),
            np.eye(4),
        ),
        path,
    )
    z, t = (*shape, 1, 1)[2] - 1, (*shape, 1, 1)[3] - 1
    array = nibabel.load(path).get_fdata()
    expected = array.reshape((*shape, 1, 1)[:4])[:, :, z, t].T
    assert np.array_equal(read_frame(path, slice_index=z, frame_index=t), expected)


@pytest.mark.parametrize('slope, intercept', [(0, 0), (0, 7), (np.nan, np.nan), (np.nan, 2)])
def test_a_slope_of_zero_or_nan_means_no_scaling(tmp_path, slope, intercept):
    data = bytearray(nifti_bytes(VOLUME.astype(np.int16)))
    data[112:120] = struct.pack('<ff', slope, intercept)
    path = tmp_path / 'a.nii'
    path.write_bytes(data)
    found = read_frame(path, slice_index=2, frame_index=1)
    assert np.array_equal(found, VOLUME[:, :, 2, 1].T)
    assert np.array_equal(found, as_nibabel_reads(path, 2, 1))


def changed(**fields):
    """A NIfTI-1 file with other values in its header, by offset: (format, value)."""
    data = bytearray(nifti_bytes(VOLUME.astype(np.int16)))
    for offset, (kind, value) in fields.items():
        struct.pack_into(f'<{kind}', data, int(offset[1:]), value)
    return bytes(data)


BAD = {
    'unknown datatype': changed(_70=('h', 999)),
    'no datatype': changed(_70=('h', 0)),
    'complex': nifti_bytes(np.zeros((4, 4, 2), np.complex64)),
    'rgba': nifti_bytes(np.zeros((4, 4, 2), [(c, 'u1') for c in 'RGBA'])),
    'negative axis': changed(_42=('h', -5)),
    'axis of zero': changed(_46=('h', 0)),
    'no axes': changed(_40=('h', 0)),
    'nine axes': changed(_40=('h', 9)),
    'five axes': changed(_40=('h', 5), _50=('h', 2)),
    'huge image': changed(_42=('h', 32767), _44=('h', 32767)),
    'huge stack': changed(_46=('h', 32767), _48=('h', 32767)),
    'pixels beyond the end': changed(_108=('f', 1e9)),
    'pixels at NaN': changed(_108=('f', np.nan)),
    'pixels in the header': changed(_108=('f', 16)),
    'infinite intercept': changed(_112=('f', 2), _116=('f', np.inf)),
    'infinite after scaling': changed(_112=('f', 3e38), _116=('f', 1)),
    'header alone': changed()[:348],
    'half a header': changed()[:345] + b'+1\0',
}


@pytest.mark.parametrize('packed', [False, True])
@pytest.mark.parametrize('case', BAD)
def test_impossible_headers(tmp_path, case, packed):
    path = tmp_path / f'a.nii{".gz" * packed}'
    path.write_bytes(gzip.compress(BAD[case]) if packed else BAD[case])
    with pytest.raises(ImageReadError, match=str(path)):
        file = open_image(path)
        file.frame(1 if file.num_slices > 1 else None, 1 if file.num_frames > 1 else None)


def test_pair_without_its_other_half(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(VOLUME.astype(np.int16), np.eye(4)), tmp_path / 'a.img')
    (tmp_path / 'a.img').rename(tmp_path / 'b.img')
    with pytest.raises(ImageReadError, match='a.hdr is the header of a pair'):
        open_image(tmp_path / 'a.hdr')
    with pytest.raises(ImageReadError, match='b.img is of no known format'):
        open_image(tmp_path / 'b.img')


def test_analyze_pair_is_refused(tmp_path):
    image = nibabel.AnalyzeImage(VOLUME[..., 0].astype(np.int16), np.eye(4))
    nibabel.save(image, tmp_path / 'a.img')
    for name in ('a.img', 'a.hdr'):
        with pytest.raises(ImageReadError, match=f'{name} belongs to a pair .* no NIfTI'):
            open_image(tmp_path / name)


@pytest.mark.parametrize('as_path', [True, False])
def test_no_more_is_unpacked_than_the_header_promises(tmp_path, as_path):
    """64 KiB that inflate to 64 MiB."""
    data = nifti_bytes(VOLUME.astype(np.int16))
    source = gzip.compress(data + bytes(2**26), 9)
    assert len(source) < 2**17
    if as_path:
        path = tmp_path / 'a.nii.gz'
        path.write_bytes(source)
        source = path
    tracemalloc.start()
    found = read_frame(source, slice_index=4, frame_index=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, VOLUME[:, :, 4, 2].T)
    assert peak < 2**22


def test_header_that_promises_more_than_can_be_packed(tmp_path):
    path = tmp_path / 'a.nii.gz'
    path.write_bytes(gzip.compress(changed(_46=('h', 30000), _48=('h', 30000))))
    with pytest.raises(ImageReadError, match='a.nii.gz is truncated: its header promises'):
        open_image(path)


@pytest.mark.parametrize('limit', [0, 2**29], ids=['in place', 'kept'])
def test_packed_files_are_unpacked_once_within_the_bound(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(nifti_pixels, 'CACHE_BYTES', limit)
    opened = []
    inflate = nifti_pixels._inflate
    monkeypatch.setattr(
        nifti_pixels, '_inflate', lambda *args: opened.append(args[2]) or inflate(*args)
    )
    path = tmp_path / 'a.nii.gz'
    path.write_bytes(gzip.compress(nifti_bytes(VOLUME.astype(np.int16))))
    for t in range(3):
        for z in range(5):
            found = read_frame(path, slice_index=z, frame_index=t)
            assert np.array_equal(found, VOLUME[:, :, z, t].T)
    whole = [count for count in opened if count > 1000]
    assert len(whole) == (1 if limit else 0)
    path.write_bytes(gzip.compress(nifti_bytes(VOLUME.astype(np.int16) + 1)))
    found = read_frame(path, slice_index=1, frame_index=1)
    assert np.array_equal(found, VOLUME[:, :, 1, 1].T + 1)  # not what was there before


def test_kept_files_are_bounded_together(tmp_path, monkeypatch):
    size = len(nifti_bytes(VOLUME.astype(np.int16)))
    monkeypatch.setattr(nifti_pixels, 'CACHE_BYTES', 2 * size)
    for i in range(5):
        path = tmp_path / f'{i}.nii.gz'
        path.write_bytes(gzip.compress(nifti_bytes(VOLUME.astype(np.int16) + i)))
        found = read_frame(path, slice_index=0, frame_index=0)
        assert np.array_equal(found, VOLUME[:, :, 0, 0].T + i)
    assert sum(map(len, CACHE._files.values())) <= 2 * size


@pytest.mark.parametrize('at', [0.3, 0.9, 0.999])
def test_packed_file_that_is_damaged(tmp_path, at):
    data = bytearray(gzip.compress(nifti_bytes(VOLUME.astype(np.int16))))
    data[int(at * len(data))] ^= 0x55
    path = tmp_path / 'a.nii.gz'
    path.write_bytes(data)
    with pytest.raises(ImageReadError, match='a.nii.gz'):
        read_frame(path, slice_index=0, frame_index=0)
