"""PNG images with label masks."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from cmr_files import by_slice, heart, pixels_of, read_coco, write_png_patient
from PIL import Image

from swin_ext.conversion import png
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.errors import ConversionError
from swin_ext.conversion.study import LabelMap


def run(root, out, labels='1=LV,2=Myo,4=RV', **settings) -> dict[tuple, dict]:
    studies = png.find_studies(
        root, 'images/{patient}_{slice}.png', 'masks/{patient}_{slice}.png', (1.5, 1.25)
    )
    convert(
        studies,
        out,
        Settings(LabelMap.parse(labels), patient_ids='folder', **settings),
        Split(val_fraction=0),
    )
    return by_slice(read_coco(out / 'train.json'))


def test_masks_and_keys(tmp_path):
    for patient in ('P_1', 'P_2'):  # a name may hold the separator
        write_png_patient(tmp_path / 'in', patient)
    images = run(tmp_path / 'in', tmp_path / 'out')
    assert set(images) == {(patient, None, z) for patient in ('P_1', 'P_2') for z in (0, 1)}
    for (_, _, z), image in images.items():
        for name, value in (('LV', 1), ('Myo', 2), ('RV', 4)):
            np.testing.assert_array_equal(image['masks'][name], heart(5 + z) == value)
        assert image['spacing_mm'] == [1.5, 1.25]


def test_8_bit_pixels_stay_as_they_are_and_16_bit_ones_are_windowed(tmp_path):
    write_png_patient(tmp_path / 'in', 'A')
    wide = pixels_of(heart(5)).astype(np.uint16) * 100
    path = tmp_path / 'in' / 'images' / 'A_01.png'
    assert cv2.imwrite(str(path), wide)
    images = run(tmp_path / 'in', tmp_path / 'out')
    kept, windowed = (
        cv2.imread(str(tmp_path / 'out' / 'images' / image['file_name']), -1)
        for image in images.values()
    )
    np.testing.assert_array_equal(kept, cv2.imread(str(path.with_name('A_00.png')), -1))
    low, high = np.percentile(wide, [0.5, 99.5])
    expected = np.floor(np.clip((wide - low) / (high - low), 0, 1) * 255)
    assert np.abs(windowed - expected).max() <= 1


def test_palette_masks_are_their_indices(tmp_path):
    write_png_patient(tmp_path / 'in', 'A')
    expected = run(tmp_path / 'in', tmp_path / 'before')
    for path in (tmp_path / 'in' / 'masks').iterdir():
        mask = Image.fromarray(np.array(Image.open(path)))
        mask.putpalette([200, 0, 0, 0, 255, 0, 9, 9, 9, 7, 7, 7, 1, 2, 3])
        mask.save(path)
        assert Image.open(path).mode == 'P'
    found = run(tmp_path / 'in', tmp_path / 'after')
    for key, image in expected.items():
        np.testing.assert_array_equal(found[key]['masks']['RV'], image['masks']['RV'])


@pytest.mark.parametrize(
    'labels, classes',
    [
        ('1=LV,2=Myo,4=RV', ['LV', 'Myo', 'RV']),
        ('4=RV,1=LV,2=Myo', ['RV', 'LV', 'Myo']),
        ('2=heart,1=heart,4=heart', ['heart']),
    ],
)
def test_categories_follow_the_order_of_the_argument(tmp_path, labels, classes):
    import json

    write_png_patient(tmp_path / 'in', 'A')
    images = run(tmp_path / 'in', tmp_path / 'out', labels)
    content = json.loads((tmp_path / 'out' / 'train.json').read_text())
    assert content['categories'] == [dict(id=i, name=name) for i, name in enumerate(classes, 1)]
    if classes == ['heart']:
        np.testing.assert_array_equal(images['A', None, 0]['masks']['heart'], heart(5) > 0)


# ---- kinds of masks -----------------------------------------------------------------------------

VALUES = np.array([[0, 1, 2], [3, 1, 0]], np.uint8)


def png_of_bits(values: np.ndarray, bits: int, colour_type: int = 0) -> bytes:
    """A PNG as its specification has it, of any depth."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
        )

    height, width = values.shape[:2]
    rows = b''
    for row in values.reshape(height, -1):
        text = ''.join(f'{value:0{bits}b}' for value in row)
        text += '0' * (-len(text) % 8)
        rows += b'\0' + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack('>IIBBBBB', width, height, bits, colour_type, 0, 0, 0)
    palette = chunk(b'PLTE', bytes(range(48))) if colour_type == 3 else b''
    body = chunk(b'IHDR', header) + palette + chunk(b'IDAT', zlib.compress(rows))
    return b'\x89PNG\r\n\x1a\n' + body + chunk(b'IEND', b'')


@pytest.mark.parametrize(
    'bits, colour_type', [(2, 0), (4, 0), (8, 0), (16, 0), (2, 3), (4, 3), (8, 3)]
)
def test_masks_of_any_depth_keep_their_values(tmp_path, bits, colour_type):
    path = tmp_path / 'mask.png'
    path.write_bytes(png_of_bits(VALUES, bits, colour_type))
    np.testing.assert_array_equal(png.read_mask(path), VALUES)


def test_masks_of_one_bit(tmp_path):
    path = tmp_path / 'mask.png'
    path.write_bytes(png_of_bits(VALUES > 1, 1))
    np.testing.assert_array_equal(png.read_mask(path), VALUES > 1)


def test_labels_above_255_are_kept(tmp_path):
    path = tmp_path / 'mask.png'
    wide = VALUES.astype(np.uint16) * 300
    path.write_bytes(png_of_bits(wide, 16))
    np.testing.assert_array_equal(png.read_mask(path), wide)


@pytest.mark.parametrize(
    'bits, colour_type, channels', [(8, 2, 3), (16, 2, 3), (8, 6, 4), (8, 4, 2), (16, 4, 2)]
)
def test_masks_with_colours_or_transparency_are_refused(tmp_path, bits, colour_type, channels):
    path = tmp_path / 'mask.png'
    path.write_bytes(png_of_bits(np.repeat(VALUES[..., None], channels, 2), bits, colour_type))
    with pytest.raises(ConversionError, match='has colours'):
        png.read_mask(path)


@pytest.mark.parametrize('mode', ['L', 'P', 'I;16'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_masks_are_turned_by_their_exif_tag(tmp_path, orientation, mode):
    turned = {
        1: VALUES, 2: VALUES[:, ::-1], 3: VALUES[::-1, ::-1], 4: VALUES[::-1],
        5: VALUES.T, 6: VALUES.T[:, ::-1], 7: VALUES.T[::-1, ::-1], 8: VALUES.T[::-1],
    }[orientation]  # fmt: skip
    image = Image.fromarray(VALUES.astype(np.uint16) if mode == 'I;16' else VALUES)
    if mode == 'P':
        image.putpalette(bytes(range(12)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / 'mask.png', exif=exif)
    np.testing.assert_array_equal(png.read_mask(tmp_path / 'mask.png'), turned)


def test_animations_and_other_formats_are_refused(tmp_path):
    first, second = (Image.fromarray(VALUES * k) for k in (1, 2))
    first.save(tmp_path / 'two.png', save_all=True, append_images=[second])
    first.save(tmp_path / 'gif.gif')
    (tmp_path / 'gif.png').write_bytes((tmp_path / 'gif.gif').read_bytes())
    for name, message in (('two.png', 'animation of 2'), ('gif.png', 'cannot be read as PNG')):
        with pytest.raises(ConversionError, match=message):
            png.read_mask(tmp_path / name)
