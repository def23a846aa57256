"""What mmdet's `LoadImageFromFile` reads through `CMRImageBackend`."""

from __future__ import annotations

import cv2
import nibabel
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile

from swin_ext.datasets import CMRImageBackend, LoadCMRImage
from swin_ext.images.image_file import ImageReadError
from swin_ext.images.preprocessing import Preprocessing, PreprocessingError

RNG = np.random.RandomState(0)
PIXELS = RNG.randint(0, 256, (20, 30)).astype(np.uint8)
WIDE = RNG.randint(0, 4000, (20, 30)).astype(np.uint16)


@pytest.fixture(params=['grey8.png', 'grey16.png', 'colour.png', 'grey.npy', 'image.nii.gz'])
def path(request, tmp_path):
    path = tmp_path / request.param
    if request.param == 'grey.npy':
        np.save(path, WIDE.astype(np.float32))
    elif request.param == 'image.nii.gz':
        nibabel.save(nibabel.Nifti1Image(WIDE.T.astype(np.int16), np.eye(4)), path)
    elif request.param == 'colour.png':
        cv2.imwrite(str(path), RNG.randint(0, 256, (20, 30, 3)))
    else:
        cv2.imwrite(str(path), PIXELS if request.param == 'grey8.png' else WIDE)
    return path


@pytest.mark.parametrize('window', [None, 'slice'])
@pytest.mark.parametrize('rounding', ['nearest', None])
@pytest.mark.parametrize('keep_8_bit', [False, True])
def test_it_reads_what_load_cmr_image_reads(path, window, rounding, keep_8_bit):
    preprocessing = Preprocessing(window, rounding=rounding, keep_8_bit=keep_8_bit)
    loader = LoadImageFromFile(
        color_type='unchanged',
        backend_args=dict(backend='CMRImageBackend', preprocessing=preprocessing.to_dict()),
    )
    try:
        expected = LoadCMRImage(preprocessing=preprocessing)(dict(img_path=str(path)))['img']
    except (ImageReadError, PreprocessingError) as error:
        with pytest.raises(type(error)):
            loader(dict(img_path=str(path)))
        return
    found = loader(dict(img_path=str(path)))
    assert found['img'].dtype == expected.dtype and found['ori_shape'] == (20, 30)
    assert np.array_equal(found['img'], expected)


@pytest.mark.parametrize(
    'preprocessing, message',
    [
        (Preprocessing('study'), 'windowed by their whole study'),
        (Preprocessing('slice', channels='slices'), "channels='slices'"),
    ],
)
def test_one_image_is_not_enough(tmp_path, preprocessing, message):
    cv2.imwrite(str(tmp_path / 'image.png'), WIDE)
    with pytest.raises(PreprocessingError, match=f'image.png: .*{message}'):
        CMRImageBackend(preprocessing.to_dict()).get(str(tmp_path / 'image.png'))
