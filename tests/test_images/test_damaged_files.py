"""Files with bytes flipped, cut off, put in or appended: pixels or the package's own error."""

from __future__ import annotations

import gzip
import io
import os
import warnings
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from image_files import dicom_bytes, make_dicom, nifti_bytes, npy_bytes
from swin_ext.images.reading import ImageReadError, open_image
from swin_ext.utils.errors import UserError

MR = (np.add.outer(np.arange(24), 3 * np.arange(20)) ** 2 % 1400).astype(np.uint16)
LONGEST = timedelta(seconds=5)  # no file of this size may take longer


def picture(kind: str, **options) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray((MR // 6).astype(np.uint8)).save(buffer, kind, exif=exif, **options)
    return buffer.getvalue()


def compressed_dicom(syntax: str) -> bytes:
    dataset = make_dicom(np.stack([MR, MR]), RescaleSlope=2, RescaleIntercept=-3)
    if syntax.endswith('.1.99'):
        dataset.file_meta.TransferSyntaxUID = syntax
    else:
        dataset.compress(syntax)
    return dicom_bytes(dataset)


def sources() -> dict[str, bytes]:
    pytest.importorskip('pydicom', minversion='3')
    volume = np.stack([MR, MR[::-1]], -1)
    return {
        'png': picture('PNG'),
        'jpeg': picture('JPEG'),
        'progressive jpeg': picture('JPEG', progressive=True),
        'npy': npy_bytes(np.stack([MR, MR])),
        'nifti': nifti_bytes(volume, 0.5, 3),
        'packed nifti': gzip.compress(nifti_bytes(volume)),
        'dicom': dicom_bytes(make_dicom(MR, RescaleSlope=2, RescaleIntercept=-3)),
        'rle dicom': compressed_dicom('1.2.840.10008.1.2.5'),
        'deflated dicom': compressed_dicom('1.2.840.10008.1.2.1.99'),
    }


SOURCES = sources()


# What happens to a file, one after the other: what, where (as a part of the file, or, below 1e-6,
# as bytes / 1e9), with which bytes. Headers are where most goes wrong.
DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(['flip', 'cut', 'insert', 'append', 'remove']),
        st.one_of(st.floats(0, 1), st.integers(0, 600).map(lambda i: i / 1e9)),
        st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


def damage(data: bytes, steps: list) -> bytes:
    data = bytearray(data)
    for what, where, other in steps:
        at = int(where * 1e9) if where < 1e-6 else int(where * len(data))
        if what == 'flip':
            for i, value in enumerate(other[: max(0, len(data) - at)]):
                data[at + i] ^= value
        elif what == 'cut':
            del data[at:]
        elif what == 'remove':
            del data[at : at + len(other)]
        elif what == 'insert':
            data[at:at] = other
        else:
            data += other * 9
    return bytes(data)


def check(name: str, steps: list, folder) -> None:
    data = damage(SOURCES[name], steps)
    source = data
    if folder is not None:
        source = os.path.join(folder, f'damaged-{abs(hash(data))}')
        with open(source, 'wb') as file:
            file.write(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            file = open_image(source)
            image = file.frame(
                0 if file.num_slices > 1 else None, file.num_frames - 1 if file.num_frames else None
            )
    except UserError as error:
        assert isinstance(error, (ImageReadError, ImportError))
        assert (str(source) if folder else 'the image of') in str(error)
    else:
        assert image.dtype == np.float32 and image.ndim == 2 and np.isfinite(image).all()
    finally:
        if folder is not None:
            os.remove(source)


def test_they_are_read_before_they_are_damaged():
    for data in SOURCES.values():
        assert open_image(data).frame(0, 0).size == MR.size


CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@pytest.mark.parametrize('name', SOURCES)
@given(steps=DAMAGES)
@settings(max_examples=200, deadline=LONGEST, suppress_health_check=CHECKS)
def test_damaged_bytes(name, steps):
    check(name, steps, None)


@pytest.mark.parametrize('name', SOURCES)
@given(steps=DAMAGES)
@settings(max_examples=40, deadline=LONGEST, suppress_health_check=CHECKS)
def test_damaged_files(name, steps, tmp_path):
    check(name, steps, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize('name', SOURCES)
@given(steps=DAMAGES)
@settings(max_examples=2000, deadline=LONGEST, suppress_health_check=CHECKS)
def test_damaged_bytes_at_length(name, steps):
    check(name, steps, None)
