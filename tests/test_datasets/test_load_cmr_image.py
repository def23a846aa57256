import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS

from image_files import dicom_bytes, make_dicom, nifti_bytes
from swin_ext.datasets import CMRDataset, DatasetError, LoadCMRImage
from swin_ext.images.reading import ImageReadError
from toy_cmr import ToyCMR

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (48, 64)).astype(np.uint8)
VOLUME = RNG.integers(0, 900, (64, 48, 5, 4)).astype(np.int16)  # x, y, z, t


def windowed(image, reference=None, percentiles=(1, 99)):
    low, high = np.percentile(image if reference is None else reference, percentiles)
    return np.clip((image - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize(
    'pixels', [GREY, RNG.integers(0, 256, (8, 9, 3)).astype(np.uint8)], ids=['grey', 'colour']
)
@pytest.mark.parametrize('to_float32', [False, True])
def test_8_bit_png_is_what_load_image_from_file_gives(tmp_path, pixels, to_float32):
    path = str(tmp_path / 'slice.png')
    cv2.imwrite(path, pixels)
    cfg = dict(to_float32=to_float32)
    expected = TRANSFORMS.build(dict(type='mmcv.LoadImageFromFile', **cfg))(dict(img_path=path))
    got = TRANSFORMS.build(dict(type='LoadCMRImage', **cfg))(dict(img_path=path))
    assert got['img'].dtype == expected['img'].dtype
    assert np.array_equal(got['img'], expected['img'])
    assert got['img_shape'] == got['ori_shape'] == expected['ori_shape']


def test_16_bit_png_is_windowed(tmp_path):
    pixels = GREY.astype(np.uint16) * 200
    path = str(tmp_path / 'slice.png')
    cv2.imwrite(path, pixels)
    image = LoadCMRImage(window='slice', percentiles=(5, 90))(dict(img_path=path))['img']
    assert image.dtype == np.uint8 and image.shape == (48, 64, 3)
    expected = np.rint(windowed(pixels.astype(float), percentiles=(5, 90)))
    assert all(np.abs(image[..., i] - expected).max() <= 1 for i in range(3))
    exact = LoadCMRImage(window='slice', percentiles=(5, 90), to_float32=True)(dict(img_path=path))[
        'img'
    ]
    assert exact.dtype == np.float32
    assert np.allclose(
        exact[..., 0], windowed(pixels.astype(float), percentiles=(5, 90)), atol=1e-3
    )


@pytest.fixture
def volume(tmp_path):
    path = tmp_path / 'cine.nii'
    path.write_bytes(nifti_bytes(VOLUME))
    return str(path)


@pytest.mark.parametrize(
    'channels, z, t, expected',
    [
        ('repeat', 2, 1, [(2, 1)] * 3),
        ('slices', 2, 1, [(1, 1), (2, 1), (3, 1)]),
        ('slices', 0, 1, [(0, 1), (0, 1), (1, 1)]),
        ('slices', 4, 3, [(3, 3), (4, 3), (4, 3)]),
        ('frames', 2, 1, [(2, 0), (2, 1), (2, 2)]),
        ('frames', 2, 0, [(2, 0), (2, 0), (2, 1)]),
        ('frames', 2, 3, [(2, 2), (2, 3), (2, 3)]),
    ],
)
@pytest.mark.parametrize('window', ['slice', 'study'])
def test_channels_of_a_volume(volume, channels, z, t, expected, window):
    load = LoadCMRImage(window=window, channels=channels, to_float32=True)
    image = load(dict(img_path=volume, slice_index=z, frame_index=t))['img']
    for channel, (slice_index, frame_index) in enumerate(expected):
        reference = VOLUME[..., frame_index] if window == 'study' else None
        assert np.allclose(
            image[..., channel],
            windowed(VOLUME[:, :, slice_index, frame_index].T.astype(float), reference),
            atol=1e-3,
        )


def make_stack(tmp_path, with_metadata=True):
    """A toy set whose 4 images are slices 0, 1, 2 and 4 of a patient, as DICOM files."""
    toy = ToyCMR(tmp_path / 'stack')
    pixels = [RNG.integers(100 * i, 1000 + 100 * i, (48, 64)).astype(np.uint16) for i in range(4)]
    for image, number, values in zip(toy.content['images'], (0, 1, 2, 4), pixels):
        image['file_name'] = f'IM-{number:04d}'
        (toy.root / 'images' / image['file_name']).write_bytes(dicom_bytes(make_dicom(values)))
        if with_metadata:
            image.update(patient_id='P1', phase='ED', slice=number, spacing_mm=[1.2, 1.2])
    toy.save()
    return toy, pixels


def build(toy, **load):
    return CMRDataset(
        data_root=str(toy.root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=[dict(type='LoadCMRImage', **load)],
    )


@pytest.mark.parametrize(
    'index, neighbours', [(0, (0, 0, 1)), (1, (0, 1, 2)), (2, (1, 2, 2)), (3, (3, 3, 3))]
)
@pytest.mark.parametrize('window', ['slice', 'study'])
def test_channels_of_a_stack_of_files(tmp_path, index, neighbours, window):
    toy, pixels = make_stack(tmp_path)
    image = build(toy, window=window, channels='slices', to_float32=True)[index]['img']
    reference = np.stack(pixels) if window == 'study' else None
    for channel, neighbour in enumerate(neighbours):
        assert np.allclose(
            image[..., channel], windowed(pixels[neighbour].astype(float), reference), atol=1e-3
        )


def test_frames_of_a_cine_of_files(tmp_path):
    toy, pixels = make_stack(tmp_path)
    for frame, image in enumerate(toy.content['images']):
        image.update(slice=3, frame=frame)
        del image['phase']
    toy.save()
    image = build(toy, window='slice', channels='frames', to_float32=True)[1]['img']
    for channel in range(3):
        assert np.allclose(image[..., channel], windowed(pixels[channel].astype(float)), atol=1e-3)


def test_two_images_of_the_same_slice(tmp_path):
    toy, _ = make_stack(tmp_path)
    toy.content['images'][1]['slice'] = 0
    toy.save()
    with pytest.raises(DatasetError, match='images 1 and 2 are both slice 0 of patient P1'):
        build(toy, window='slice', channels='slices')
    assert len(build(toy, window='slice')) == 4  # where no neighbour is needed


@pytest.mark.parametrize(
    'load', [dict(channels='slices'), dict(channels='frames'), dict(window='study')]
)
def test_neighbours_need_metadata(tmp_path, load):
    toy, _ = make_stack(tmp_path, with_metadata=False)
    with pytest.raises(DatasetError, match=r'image 1 .*needs .* patient_id'):
        build(toy, **{'window': 'slice', **load})[0]


def test_neighbour_of_another_size(tmp_path):
    toy, pixels = make_stack(tmp_path)
    (toy.root / 'images/IM-0001').write_bytes(dicom_bytes(make_dicom(pixels[0][:40])))
    with pytest.raises(DatasetError, match=r'IM-0001 has shape \(40, 64\), but .*IM-0000'):
        build(toy, window='slice', channels='slices')[0]


def test_values_beyond_8_bit_need_a_window(tmp_path):
    toy, _ = make_stack(tmp_path)
    with pytest.raises(DatasetError, match="Set window='slice' or window='study'"):
        build(toy)[0]


def test_other_backends_read_the_same(tmp_path, volume):
    here = dict(img_path=volume, slice_index=1, frame_index=1)
    load = dict(window='study', channels='slices')
    remote = dict(backend='RecordingBackend')
    from mmengine.fileio import LocalBackend, register_backend
    from mmengine.fileio.backends.base import BaseStorageBackend

    read = []

    class RecordingBackend(BaseStorageBackend):
        """Bytes of local files, as a store without a file system would give them."""

        def get(self, filepath):
            read.append(filepath)
            return LocalBackend().get(filepath)

        def get_text(self, filepath, encoding='utf-8'):
            return self.get(filepath).decode(encoding)

    register_backend('RecordingBackend', RecordingBackend, force=True)
    expected = LoadCMRImage(**load)(dict(here))['img']
    assert np.array_equal(LoadCMRImage(backend_args=remote, **load)(dict(here))['img'], expected)
    assert read == [volume]


def test_slice_out_of_range_names_the_file(volume):
    with pytest.raises(ImageReadError, match='cine.nii: slice_index 7 is out of range'):
        LoadCMRImage(window='slice')(dict(img_path=volume, slice_index=7, frame_index=0))


@pytest.mark.parametrize(
    'argument, message',
    [
        (dict(window='auto'), "window='auto' must be one of"),
        (dict(channels='2.5d'), "channels='2.5d' must be one of"),
        (dict(percentiles=(99, 1)), 'two rising numbers'),
    ],
)
def test_invalid_argument(argument, message):
    with pytest.raises(ValueError, match=message):
        LoadCMRImage(**argument)
