"""NumPy files in any order of bytes and axes, and headers that promise what is not there."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from swin_ext.images.image_file import ImageReadError
from swin_ext.images.reading import open_image

VALUES = np.arange(24).reshape(2, 3, 4)


def content_of(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def with_header(text: str) -> bytes:
    return b'\x93NUMPY\x01\x00' + struct.pack('<H', len(text)) + text.encode() + b'\0' * 240


@pytest.mark.parametrize('dtype', ['<i2', '>i2', '>f4', '<f8', 'f2', 'u1', '?', '>u8'])
@pytest.mark.parametrize('order', ['C', 'F'])
@pytest.mark.parametrize('as_path', [True, False])
def test_values_are_those_of_numpy(tmp_path, dtype, order, as_path):
    array = np.array(VALUES % 2 if dtype == '?' else VALUES, dtype, order=order)
    source = content_of(array)
    if as_path:
        (tmp_path / 'a.npy').write_bytes(source)
        source = tmp_path / 'a.npy'
    found = open_image(source).stack()
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, array.astype(np.float32))


@pytest.mark.parametrize(
    'source, message',
    [
        (content_of(VALUES.astype(object)), 'pickled Python objects'),
        (content_of(VALUES.astype(complex)), 'not real numbers'),
        (content_of(np.zeros((3, 4), [('a', 'i4')])), 'not real numbers'),
        (content_of(np.zeros((3, 4), 'M8[s]')), 'not real numbers'),
        (content_of(np.full((3, 4), 1e300)), '12 of 12 pixels are NaN or infinite'),
        (content_of(np.array(3)), 'needs'),
        (content_of(np.zeros((0, 4))), 'no MR image'),
        (with_header("{'descr':'<i2','fortran_order':False,'shape':(-3,-3,3,4)}\n"), 'negative'),
        (with_header("{'descr':'<i2','fortran_order':False,'shape':(9**9,3,4)}\n"), 'damaged'),
        (with_header("{'descr':'<i2','fortran_order':False,'shape':(99999,3,4)}\n"), 'truncated'),
        (with_header("{'descr':('<i2',(2,)),'fortran_order':False,'shape':(3,4)}\n"), 'not real'),
        (with_header("__import__('os').abort()\n"), 'malformed'),
        (b'\x93NUMPY\x02\x00\xff\xff\xff\xff{', 'EOF'),
    ],
)
def test_what_is_no_image_is_refused(source, message):
    with pytest.raises(ImageReadError, match=message):
        open_image(source).frame()
