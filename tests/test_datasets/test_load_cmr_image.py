import gzip
import io

import cv2
import numpy as np
import pytest
from mmengine.registry import TRANSFORMS
from PIL import Image

from image_files import dicom_bytes, make_dicom, nifti_bytes
from swin_ext.datasets import CMRDataset, DatasetError, LoadCMRImage
from swin_ext.images.preprocessing import Preprocessing
from swin_ext.images.reading import ImageReadError, open_image
from toy_cmr import ToyCMR

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (48, 64)).astype(np.uint8)
VOLUME = RNG.integers(0, 900, (64, 48, 5, 4)).astype(np.int16)  # x, y, z, t


def windowed(image, reference=None, percentiles=(0.5, 99.5)):
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


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'colour PNG', 'palette PNG', 'LA PNG'])
def test_pictures_are_what_load_image_from_file_gives(tmp_path, orientation, kind):
    """Turned by EXIF, from palettes and without transparency, whatever the suffix says."""
    image = Image.fromarray(GREY)
    if kind.startswith('colour'):
        image = Image.fromarray(RNG.integers(0, 256, (48, 64, 3)).astype(np.uint8))
    elif kind.startswith('palette'):
        image = image.convert('P')
        image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
    elif kind.startswith('LA'):
        image.putalpha(Image.fromarray(GREY[::-1]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ('png', 'JPG', 'none'):
        path = str(tmp_path / f'slice.{suffix}')
        image.save(path, kind.split()[-1], exif=exif)
        expected = TRANSFORMS.build(dict(type='mmcv.LoadImageFromFile'))(dict(img_path=path))
        got = LoadCMRImage()(dict(img_path=path))
        assert np.array_equal(got['img'], expected['img'])
        assert got['img_shape'] == got['ori_shape'] == expected['ori_shape']


@pytest.mark.parametrize('orientation', [1, 3, 6])
@pytest.mark.parametrize('as_rgb', [False, True])
def test_a_window_changes_no_geometry(tmp_path, orientation, as_rgb):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey = np.stack([GREY] * 3, -1) if as_rgb else GREY
    path = str(tmp_path / 'slice.png')
    Image.fromarray(grey).save(path, exif=exif)
    plain = LoadCMRImage()(dict(img_path=path))['img'].astype(float)
    wide = LoadCMRImage(window='slice', percentiles=(0, 100))(dict(img_path=path))['img']
    assert plain.shape == wide.shape and np.corrcoef(plain.ravel(), wide.ravel())[0, 1] > 0.9999


def test_dark_slices_of_16_bits_are_windowed_like_their_neighbours(tmp_path):
    """Whether pixels are grey levels is told by the depth of the file, not by their values."""
    dark = GREY.astype(np.uint16)
    for name, array in (('a.png', dark), ('b.npy', dark)):
        path = str(tmp_path / name)
        cv2.imwrite(path, array) if name.endswith('png') else np.save(path, array)
        for kept in (False, True):
            load = LoadCMRImage(preprocessing=Preprocessing(window='slice', keep_8_bit=kept))
            image = load(dict(img_path=path))['img'][..., 0]
            assert np.array_equal(image, np.rint(windowed(dark.astype(float))))
        with pytest.raises(ValueError, match=f"{name}: .*Set window='slice'"):
            LoadCMRImage()(dict(img_path=path))


def test_8_bit_files_may_be_kept_beside_windowed_ones(tmp_path):
    path = str(tmp_path / 'a.npy')
    np.save(path, GREY)
    for kept in (False, True):
        load = LoadCMRImage(preprocessing=Preprocessing(window='study', keep_8_bit=kept))
        results = dict(img_path=path, slice=0, stack=[(0, (path, None, None))])
        assert np.array_equal(load(results)['img'][..., 1], GREY) == kept


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
@pytest.mark.parametrize('channels', ['repeat', 'slices', 'frames'])
@pytest.mark.parametrize('window', ['slice', 'study'])
def test_source_files_give_the_pixels_of_a_conversion(tmp_path, suffix, channels, window):
    """A PNG that was written by a `Preprocessing` equals what the loader makes of the source."""
    path = tmp_path / f'cine{suffix}'
    data = nifti_bytes(VOLUME, 0.37, -3)
    path.write_bytes(gzip.compress(data) if suffix == '.nii.gz' else data)
    stored = Preprocessing(window=window, percentiles=(0.7, 98.1))
    loader = LoadCMRImage(channels=channels)
    both = LoadCMRImage(preprocessing=loader.preprocessing.after(stored).to_dict())
    file, entries = open_image(path), {}
    for t in range(4):
        for z in range(5):
            levels = stored.grey_levels(file.frame(z, t), file.stack(t))
            png = str(tmp_path / f'{t}_{z}.png')
            cv2.imwrite(png, levels)
            entries[z, t] = (png, None, None)
    for (z, t), (png, *_) in entries.items():
        stack = [(i, entries[i, t]) for i in range(5)]
        cine = [(i, entries[z, i]) for i in range(4)]
        from_png = loader(dict(img_path=png, slice=z, frame=t, stack=stack, cine=cine))['img']
        from_source = both(dict(img_path=str(path), slice_index=z, frame_index=t))['img']
        assert from_png.dtype == from_source.dtype == np.uint8
        assert np.array_equal(from_png, from_source)


def test_preprocessing_takes_the_place_of_the_arguments():
    values = dict(window='study', percentiles=(2, 98), channels='frames')
    expected = Preprocessing(**values, rounding=None)
    assert LoadCMRImage(**values, to_float32=True).preprocessing == expected
    assert LoadCMRImage(preprocessing=expected.to_dict()).preprocessing == expected
    assert LoadCMRImage().preprocessing == Preprocessing()
    with pytest.raises(ValueError, match='Leave one or the other out'):
        LoadCMRImage(window='slice', preprocessing=expected)


@pytest.mark.parametrize(
    'wrap',
    [
        lambda load: dict(type='RandomApply', transforms=[load], prob=1.0),
        lambda load: dict(type='RandomChoice', transforms=[[load], [load]]),
        lambda load: dict(
            type='KeyMapper',
            transforms=[dict(type='RandomApply', transforms=[load], prob=1.0)],
        ),
    ],
    ids=['RandomApply', 'RandomChoice', 'nested'],
)
def test_neighbours_are_found_from_inside_another_transform(tmp_path, wrap):
    toy, pixels = make_stack(tmp_path)
    load = dict(type='LoadCMRImage', window='slice', channels='slices', to_float32=True)
    data_set = CMRDataset(
        data_root=str(toy.root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=[wrap(load)],
    )
    image = data_set[1]['img']
    for channel in range(3):
        assert np.allclose(image[..., channel], windowed(pixels[channel].astype(float)), atol=1e-3)


def test_data_set_knows_the_size_of_a_turned_picture(tmp_path):
    toy, _ = make_stack(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in toy.content['images']:
        buffer = io.BytesIO()
        Image.fromarray(GREY.T).save(buffer, 'PNG', exif=exif)
        image['file_name'] += '.png'
        (toy.root / 'images' / image['file_name']).write_bytes(buffer.getvalue())
    toy.save()
    data_set = CMRDataset(
        data_root=str(toy.root),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        pipeline=[dict(type='LoadCMRImage')],
        invalid='skip',
    )
    assert len(data_set) == 4 and data_set[0]['img'].shape == (48, 64, 3)
