"""DICOM files without preamble: their pixels are those of the whole file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from swin_ext.images.reading import read_frame


@pytest.mark.parametrize('implicit, little', [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize('name', ['bare', 'bare.dcm'])
def test_pixels_of_bare_files(tmp_path, implicit, little, name):
    whole = Path(pydicom.__file__).parent / 'data' / 'test_files' / 'MR_small.dcm'
    dataset = pydicom.dcmread(whole)
    bare = Dataset()
    bare.update(dataset)
    if not little:
        bare.PixelData = dataset.pixel_array.astype('>i2').tobytes()
    bare.save_as(tmp_path / name, implicit_vr=implicit, little_endian=little)
    assert (tmp_path / name).read_bytes()[128:132] != b'DICM'
    np.testing.assert_array_equal(read_frame(tmp_path / name), read_frame(whole))
