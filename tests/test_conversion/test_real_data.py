"""Real AutoFD and Sunnybrook files against the COCO files that others made from them.

Those were made once, by other code, and are the reference here: same masks, pixel by pixel, up to
the differences that are listed.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from cmr_files import read_coco

from swin_ext.conversion import dicom, nifti, png
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import LabelMap


def mask_of(image: dict, name: str) -> np.ndarray:
    return image['masks'].get(name, np.zeros((image['height'], image['width']), bool))


def png_of(folder: Path, image: dict) -> np.ndarray:
    return cv2.imread(str(folder / 'images' / image['file_name']), cv2.IMREAD_UNCHANGED)


def assert_same_picture(ours: np.ndarray, reference: np.ndarray) -> None:
    """The references were rounded down, where ours are rounded to the nearest grey level."""
    difference = ours.astype(int) - reference
    assert difference.min() >= 0 and difference.max() <= 1


def run(studies, out: Path, labels: str, split: Split, **arguments) -> dict:
    return convert(
        studies,
        out,
        Settings(LabelMap.parse(labels), patient_ids='folder', instances='component'),
        split,
        **arguments,
    )


# The reference leaves out parts of less than about 20 pixels; here they are kept.
AUTOFD_SPECKS = {
    ('B_z11.png', 'Myo'): 12,
    ('D_z02.png', 'RV'): 1,
    ('D_z11.png', 'Myo'): 7,
    ('E_z03.png', 'RV'): 1,
    ('F_z11.png', 'Myo'): 13,
}


def test_autofd(real_data, tmp_path):
    reference = real_data / 'autofd_nifti' / 'coco'
    studies = nifti.find_studies(
        real_data / 'autofd_nifti' / 'nifti',
        'generic',
        '{patient}/sa_{phase}.nii.gz',
        '{patient}/seg_sa_{phase}.nii.gz',
    )
    report = run(studies, tmp_path, '1=LV,2=Myo,4=RV', Split(val_patients=('F',)))
    # The reference has the slices with labels alone: 54 and 11.
    assert report['images'] == dict(train=60, val=12)
    assert report['without_label'] == dict(train=6, val=1) and not report['left_out']
    differing = Counter()
    for name in ('train', 'val'):
        found = {
            f'{image["patient_id"]}_z{image["slice"]:02d}.png': image
            for image in read_coco(tmp_path / f'{name}.json')
            if image['masks']
        }
        expected = {image['file_name']: image for image in read_coco(reference / f'{name}.json')}
        assert found.keys() == expected.keys()
        for key, image in expected.items():
            assert found[key]['phase'] == 'ED'
            assert found[key]['spacing_mm'] == pytest.approx(1.230769, abs=1e-6)
            assert found[key]['slice_spacing_mm'] == pytest.approx(10, abs=1e-5)
            assert_same_picture(png_of(tmp_path, found[key]), png_of(reference, image))
            for class_name in ('LV', 'Myo', 'RV'):
                ours, theirs = mask_of(found[key], class_name), mask_of(image, class_name)
                assert not (theirs & ~ours).any()
                if (ours ^ theirs).any():
                    differing[key, class_name] = int((ours ^ theirs).sum())
                else:
                    assert found[key]['parts'].get(class_name) == image['parts'].get(class_name)
    assert differing == AUTOFD_SPECKS


def find_sunnybrook(real_data, fill='centres'):
    root = real_data / 'sunnybrook_dicom'
    studies = dicom.find_studies(
        root, 'dicom/{patient}', 'contours/{patient}', None, root / 'link.csv'
    )
    return [replace(study, fill=fill) for study in studies]


def test_sunnybrook_with_both_contours(real_data, tmp_path):
    """All masks are those of the reference, which were filled with every pixel touched."""
    reference = real_data / 'sunnybrook_dicom' / 'coco'
    report = convert(
        find_sunnybrook(real_data, 'touched'),
        tmp_path,
        Settings(LabelMap.parse('1=LV,2=Myo'), patient_ids='folder'),
        Split(val_patients=('SCD0000401',)),
        on_error='skip',
    )
    # The o-contours of this patient are missing.
    assert [entry['patient_id'] for entry in report['skipped']] == ['SCD0000501']
    assert report['images'] == dict(train=28, val=9)
    for name, reference_name in (('train', 'train'), ('val', 'test')):
        found = read_coco(tmp_path / f'{name}.json')
        expected = {
            image['file_name']: image for image in read_coco(reference / f'{reference_name}.json')
        }
        assert {Path(image['file_name']).name for image in found} == set(expected)
        for image in found:
            other = expected[Path(image['file_name']).name]
            assert image['phase'] == 'ED' and image['parts'] == other['parts'] == dict(LV=1, Myo=1)
            assert_same_picture(png_of(tmp_path, image), png_of(reference, other))
            for class_name in ('LV', 'Myo'):
                np.testing.assert_array_equal(
                    image['masks'][class_name], other['masks'][class_name]
                )


def test_sunnybrook_cavity_at_ed_and_es(real_data, tmp_path):
    """Against the set that was made from the same contours by way of PNG: 96 frames."""
    reference = {}
    for name in ('train', 'val'):
        for image in read_coco(real_data / 'sunnybrook_png' / f'{name}.json'):
            patient, number = re.fullmatch(
                r'SC-(.+)-IM-0001-(\d+)\.png', image['file_name']
            ).groups()
            reference[patient, int(number)] = image
    report = run(find_sunnybrook(real_data, 'touched'), tmp_path, '1=LV', Split(val_fraction=0))
    assert report['images'] == dict(train=96) and report['skipped'] == []
    names = {
        'SCD0000101': 'HF-I-01',
        'SCD0000201': 'HF-I-02',
        'SCD0000301': 'HF-I-04',
        'SCD0000401': 'HF-I-05',
        'SCD0000501': 'HF-I-06',
    }
    areas, correlations = {}, []
    for image in read_coco(tmp_path / 'train.json'):
        other = reference[names[image['patient_id']], int(image['file_name'][-8:-4])]
        np.testing.assert_array_equal(image['masks']['LV'], other['masks']['LV'])
        areas.setdefault((image['patient_id'], image['slice']), {})[image['phase']] = image[
            'masks'
        ]['LV'].sum()
        pixels = cv2.imread(str(real_data / 'sunnybrook_png' / 'images' / other['file_name']), 0)
        ours = png_of(tmp_path, image)
        unclipped = (ours > 0) & (ours < 255)
        correlations.append(np.corrcoef(ours[unclipped], pixels[unclipped])[0, 1])
    assert min(correlations) > 0.999
    # Two slices at the ends of the heart are larger at ES, as the heart moves along its axis.
    pairs = {key: phases for key, phases in areas.items() if len(phases) == 2}
    assert len(pairs) == 48
    assert [key for key, phases in pairs.items() if phases['ED'] <= phases['ES']] == [
        ('SCD0000401', 0),
        ('SCD0000501', 1),
    ]


def test_sunnybrook_areas_are_those_of_the_polygons(real_data, tmp_path):
    """Ten stacks, five patients at ED and ES; touched pixels were 4.6 to 6.8 % too many."""
    run(find_sunnybrook(real_data), tmp_path, '1=LV', Split(val_fraction=0))
    folder = real_data / 'sunnybrook_dicom'
    rows = [line.split(',') for line in (folder / 'link.csv').read_text().split()[1:]]
    areas = {}
    for image in read_coco(tmp_path / 'train.json'):
        if not image['masks']:
            continue
        number = int(image['file_name'][-8:-4])
        name = f'IM-0001-{number:04d}-icontour-manual.txt'
        (path,) = (folder / 'contours' / dict(rows)[image['patient_id']]).rglob(name)
        x, y = np.loadtxt(path).T
        polygon = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        areas.setdefault((image['patient_id'], image['phase']), []).append(
            (image['masks']['LV'].sum(), polygon)
        )
    assert len(areas) == 10 and sum(map(len, areas.values())) == 96
    for stack in areas.values():
        mask, polygon = np.sum(stack, 0)
        assert mask == pytest.approx(polygon, rel=0.005)


def test_sunnybrook_png_with_masks(real_data, tmp_path):
    """PNG in, PNG out: pixels and masks of some patients come back unchanged."""
    images = [image for image in read_coco(real_data / 'sunnybrook_png' / 'val_small.json')]
    for image in images:
        source = real_data / 'sunnybrook_png' / 'images' / image['file_name']
        for kind, content in (
            ('images', source.read_bytes()),
            (
                'masks',
                cv2.imencode('.png', image['masks']['LV'].astype(np.uint8) * 255)[1].tobytes(),
            ),
        ):
            path = tmp_path / 'in' / kind / image['file_name']
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    pattern = '/{patient}-IM-*-{frame}.png'
    studies = png.find_studies(tmp_path / 'in', 'images' + pattern, 'masks' + pattern, (1.4, 1.4))
    run(studies, tmp_path / 'out', '255=LV', Split(val_fraction=0))
    found = {image['source_file']: image for image in read_coco(tmp_path / 'out' / 'train.json')}
    assert len(found) == len(images)
    for image in images:
        other = found[f'images/{image["file_name"]}']
        np.testing.assert_array_equal(other['masks']['LV'], image['masks']['LV'])
        np.testing.assert_array_equal(
            png_of(tmp_path / 'out', other), png_of(real_data / 'sunnybrook_png', image)
        )
