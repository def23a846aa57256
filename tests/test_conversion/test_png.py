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
