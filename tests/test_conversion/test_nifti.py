"""NIfTI volumes: masks against the arrays they were written from, pairing by affine."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pytest
from cmr_files import (
    AFFINE,
    HEIGHT,
    WIDTH,
    by_slice,
    heart,
    pixels_of,
    read_coco,
    shifted,
    write_nifti,
    write_nifti_patient,
)

from swin_ext.conversion import nifti
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import LabelMap
from swin_ext.images.reading import read_frame

IMAGE, LABEL = '{patient}/sa_{phase}.nii.gz', '{patient}/seg_sa_{phase}.nii.gz'
LABELS = LabelMap.parse('1=LV,2=Myo,4=RV')


def run(
    root: Path,
    out: Path,
    layout='generic',
    image=IMAGE,
    label=LABEL,
    labels=LABELS,
    frames=None,
    spacing_mm=None,
    assume_same_grid=False,
    **settings,
) -> dict[tuple, dict]:
    studies = nifti.find_studies(
        root, layout, image, label, frames, None, spacing_mm, assume_same_grid
    )
    convert(studies, out, Settings(labels, patient_ids='folder', **settings), Split(val_fraction=0))
    return by_slice(read_coco(out / 'train.json'))


def assert_same_masks(found: dict[tuple, dict], expected: dict[tuple, dict]) -> None:
    assert found.keys() == expected.keys()
    for key, image in expected.items():
        assert found[key]['masks'].keys() == image['masks'].keys()
        for name, mask in image['masks'].items():
            np.testing.assert_array_equal(found[key]['masks'][name], mask)


def test_slices_are_paired_by_position_not_by_index(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A')
    images = run(tmp_path / 'in', tmp_path / 'out')
    assert list(images) == [('A', 'ED', z) for z in range(4)]
    assert images.pop(('A', 'ED', 0))['masks'] == {}
    for (_, _, z), image in images.items():
        for name, value in (('LV', 1), ('Myo', 2), ('RV', 4)):
            np.testing.assert_array_equal(image['masks'][name], heart(4 + z) == value)
        assert (image['height'], image['width']) == (HEIGHT, WIDTH)
        assert image['spacing_mm'] == 1.25 and image['slice_spacing_mm'] == 8


def test_rings_keep_their_hole_and_share_no_pixel_with_the_cavity(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A')
    images = run(tmp_path / 'in', tmp_path / 'out')
    del images['A', 'ED', 0]  # which has no label
    for image in images.values():
        myo, lv = image['masks']['Myo'], image['masks']['LV']
        assert not myo[18, 28] and lv[18, 28] and not (myo & lv).any()
        assert image['parts'] == dict(LV=1, Myo=1, RV=1)


@pytest.mark.parametrize('axes', ['LAS', 'RPS', 'LPI', 'ARS', 'SPL', 'IRA'])
def test_labels_stored_along_other_axes_are_turned_back(tmp_path, axes):
    folder = tmp_path / 'in' / 'A'
    write_nifti_patient(folder)
    expected = run(tmp_path / 'in', tmp_path / 'before')
    label = nibabel.load(folder / 'seg_sa_ED.nii.gz')
    label = nibabel.Nifti1Image(np.asanyarray(label.dataobj)[..., 0], label.affine)
    turned = label.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.io_orientation(label.affine), nibabel.orientations.axcodes2ornt(axes)
        )
    )
    assert ''.join(nibabel.aff2axcodes(turned.affine)) == axes
    nibabel.save(turned, folder / 'seg_sa_ED.nii.gz')
    assert_same_masks(run(tmp_path / 'in', tmp_path / 'after'), expected)


@pytest.mark.parametrize(
    'affine',
    [
        np.diag([-1.25, -1.25, 8, 1]),
        np.array(
            [[0, 0, 8, 3], [1.25, 0, 0, 5], [0, -1.25, 0, 7], [0, 0, 0, 1.0]]
        ),  # a sagittal stack
        nibabel.affines.from_matvec(
            np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]]) @ np.diag([1.25, 1.25, 8]),
            [9, 8, 7],
        ),
    ],
    ids=['flipped', 'sagittal', 'oblique'],
)
def test_image_and_label_turned_alike_stay_as_they_are(tmp_path, affine):
    folder = tmp_path / 'in' / 'A'
    labels = np.stack([heart(5).T, heart(6).T], -1)
    write_nifti(folder / 'sa_ED.nii.gz', pixels_of(labels), affine)
    write_nifti(folder / 'seg_sa_ED.nii.gz', labels, affine)
    for (_, _, z), image in run(tmp_path / 'in', tmp_path / 'out').items():
        np.testing.assert_array_equal(image['masks']['LV'], heart(5 + z) == 1)


def test_loader_reads_the_same_pixels_from_the_source(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A')
    (study,) = nifti.find_studies(tmp_path / 'in', 'generic', IMAGE, LABEL)
    array = np.asanyarray(nibabel.load(tmp_path / 'in' / 'A' / 'sa_ED.nii.gz').dataobj)
    for item in study.read(LABELS, Counter()):
        np.testing.assert_array_equal(item.image, array[:, :, item.slice, 0].T)
    for (_, _, z), entry in run(tmp_path / 'in', tmp_path / 'out', pixels='none').items():
        assert entry['file_name'] == 'A/sa_ED.nii.gz'
        found = read_frame(
            tmp_path / 'in' / entry['file_name'],
            slice_index=entry['slice_index'],
            frame_index=entry['frame_index'],
        )
        np.testing.assert_array_equal(found, array[:, :, z, 0].T)


def test_png8_window_is_that_of_the_volume(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A')
    images = run(tmp_path / 'in', tmp_path / 'out', window=(2.0, 98.0))
    array = np.asanyarray(nibabel.load(tmp_path / 'in' / 'A' / 'sa_ED.nii.gz').dataobj)
    low, high = np.percentile(array, [2, 98])
    for (_, _, z), entry in images.items():
        found = cv2.imread(str(tmp_path / 'out' / 'images' / entry['file_name']), -1)
        expected = np.clip((array[:, :, z, 0].T - low) / (high - low), 0, 1) * 255
        assert found.dtype == np.uint8
        assert np.abs(found - np.floor(expected)).max() <= 1  # float32 against float64
        assert entry['file_name'] == f'A/A_ED_z{z:02d}.png'


@pytest.mark.parametrize(
    'convert_pixels',
    [
        lambda pixels: pixels,
        lambda pixels: pixels * 0.37,
        lambda pixels: pixels - 200,
        lambda pixels: pixels * 500.0,
    ],
    ids=['as stored', 'fractions', 'negative', 'beyond 16 bit'],
)
def test_png16_holds_the_values(tmp_path, convert_pixels):
    folder = tmp_path / 'in' / 'A'
    write_nifti_patient(folder)
    array = np.asanyarray(nibabel.load(folder / 'sa_ED.nii.gz').dataobj)
    array = convert_pixels(array.astype(np.float32))
    write_nifti(folder / 'sa_ED.nii.gz', array, AFFINE)
    for (_, _, z), entry in run(tmp_path / 'in', tmp_path / 'out', pixels='png16').items():
        stored = cv2.imread(str(tmp_path / 'out' / 'images' / entry['file_name']), -1)
        assert stored.dtype == np.uint16
        values = stored * entry.get('rescale_slope', 1.0) + entry.get('rescale_intercept', 0.0)
        step = entry.get('rescale_slope', 0) / 2 + 1e-3
        assert np.abs(values - array[:, :, z, 0].T).max() <= step


def write_acdc(root: Path) -> None:
    folder = root / 'training' / 'patient001'
    for frame, radius in ((1, 8), (12, 5)):
        labels = np.stack([heart(radius).T] * 2, -1)
        write_nifti(folder / f'patient001_frame{frame:02d}.nii.gz', pixels_of(labels), AFFINE)
        acdc = np.choose(labels, [0, 3, 2, 0, 1])  # 1 RV, 2 Myo, 3 LV
        write_nifti(
            folder / f'patient001_frame{frame:02d}_gt.nii.gz', acdc.astype(np.int16), AFFINE
        )
    write_nifti(folder / 'patient001_4d.nii.gz', np.zeros((4, 4, 2, 20), np.int16), AFFINE)
    (folder / 'Info.cfg').write_text(
        'ED: 1\nES: 12\nGroup: DCM\nHeight: 184.0\nNbFrame: 30\nWeight: 95.0\n'
    )


def write_mnms(root: Path) -> None:
    labels = np.zeros((WIDTH, HEIGHT, 2, 12), np.int16)
    for frame, radius in ((3, 8), (10, 5)):
        labels[..., frame] = np.choose(np.stack([heart(radius).T] * 2, -1), [0, 1, 2, 0, 3])
    write_nifti(root / 'Labeled' / 'A0S9V9' / 'A0S9V9_sa.nii.gz', pixels_of(labels), AFFINE)
    write_nifti(root / 'Labeled' / 'A0S9V9' / 'A0S9V9_sa_gt.nii.gz', labels, AFFINE)
    (root / 'information.csv').write_text(
        ',External code,VendorName,Vendor,Centre,ED,ES,Age\n0,A0S9V9,X,A,1,3,10,50\n'
        '1,Z9Z9Z9,X,A,1,,,50\n'
    )


def write_emidec(root: Path) -> None:
    labels = np.stack([np.where(heart(6) == 4, 0, heart(6)).T] * 2, -1)
    labels[:, :20][labels[:, :20] == 2] = 3  # infarct, within the myocardium
    labels[:, :10][labels[:, :10] == 3] = 4
    write_nifti(root / 'Case_P001' / 'Images' / 'Case_P001.nii.gz', pixels_of(labels), AFFINE)
    write_nifti(root / 'Case_P001' / 'Contours' / 'Case_P001.nii.gz', labels, AFFINE)


@pytest.mark.parametrize(
    'layout, write, radii, classes',
    [
        (
            'acdc',
            write_acdc,
            {('patient001', 'ED'): 8, ('patient001', 'ES'): 5},
            ('LV', 'Myo', 'RV'),
        ),
        ('mnms', write_mnms, {('A0S9V9', 'ED'): 8, ('A0S9V9', 'ES'): 5}, ('LV', 'Myo', 'RV')),
        ('emidec', write_emidec, {('Case_P001', None): 6}, ('LV', 'Myo')),
    ],
)
def test_layouts_of_published_data(tmp_path, layout, write, radii, classes):
    write(tmp_path / 'in')
    images = run(
        tmp_path / 'in',
        tmp_path / 'out',
        layout,
        None,
        None,
        LabelMap.parse(nifti.LAYOUTS[layout].labels),
    )
    assert images.keys() == {(*key, z) for key in radii for z in (0, 1)}
    for (patient, phase, _), image in images.items():
        expected = heart(radii[patient, phase])
        assert tuple(image['masks']) == classes
        for name, value in (('LV', 1), ('Myo', 2), ('RV', 4)):
            if name in classes:
                np.testing.assert_array_equal(image['masks'][name], expected == value)


def test_frames_of_4d_files_are_chosen_by_argument(tmp_path):
    labels = np.zeros((WIDTH, HEIGHT, 1, 6), np.int16)
    labels[..., 0, 2], labels[..., 0, 5] = heart(8).T, heart(5).T
    image = pixels_of(labels)
    write_nifti(tmp_path / 'in' / 'A' / 'cine.nii.gz', image, AFFINE)
    write_nifti(tmp_path / 'in' / 'A' / 'label.nii.gz', labels, AFFINE)
    images = run(
        tmp_path / 'in',
        tmp_path / 'out',
        image='{patient}/cine.nii.gz',
        label='{patient}/label.nii.gz',
        frames=dict(ED=2, ES=5),
        pixels='none',
    )
    assert {key: entry['frame_index'] for key, entry in images.items()} == {
        ('A', 'ED', 0): 2,
        ('A', 'ES', 0): 5,
    }
    assert {entry['frame'] for entry in images.values()} == {2, 5}
    np.testing.assert_array_equal(images['A', 'ES', 0]['masks']['LV'], heart(5) == 1)
    for entry in images.values():
        np.testing.assert_array_equal(
            read_frame(
                tmp_path / 'in' / 'A' / 'cine.nii.gz',
                slice_index=entry['slice_index'],
                frame_index=entry['frame_index'],
            ),
            image[:, :, 0, entry['frame_index']].T,
        )


def test_same_grid_is_assumed_on_request_only(tmp_path):
    folder = tmp_path / 'in' / 'A'
    labels = np.stack([heart(5).T, heart(6).T], -1)
    write_nifti(folder / 'sa_ED.nii.gz', pixels_of(labels), np.diag([1.3, 1.3, 9, 1]), coded=False)
    write_nifti(folder / 'seg_sa_ED.nii.gz', labels, np.diag([1.3, 1.3, 9, 1]), coded=False)
    images = run(tmp_path / 'in', tmp_path / 'out', assume_same_grid=True)
    np.testing.assert_array_equal(images['A', 'ED', 1]['masks']['LV'], heart(6) == 1)
    assert images['A', 'ED', 1]['spacing_mm'] == pytest.approx(1.3, abs=1e-6)


def test_spacing_follows_the_unit_and_may_differ_between_rows_and_columns(tmp_path):
    folder = tmp_path / 'in' / 'A'
    affine = np.diag([1.5e-3, 1.2e-3, 9e-3, 1])  # columns, rows, slices in metres
    labels = heart(5).T[..., None]
    for name, array in (('sa_ED', pixels_of(labels)), ('seg_sa_ED', labels)):
        write_nifti(folder / f'{name}.nii.gz', array, affine, xyzt_units=1)
    (entry,) = run(tmp_path / 'in', tmp_path / 'out').values()
    assert entry['spacing_mm'] == pytest.approx([1.2, 1.5])  # rows, columns
    assert entry['slice_spacing_mm'] == pytest.approx(9)


def test_components_become_instances_on_request(tmp_path):
    folder = tmp_path / 'in' / 'A'
    labels = heart(5)
    labels[:, 10] = np.where(labels[:, 10] == 4, 0, labels[:, 10])  # cuts the RV in two
    labels[5, 40], labels[6, 41] = 1, 1  # touch by a corner, apart from the LV
    write_nifti(folder / 'sa_ED.nii.gz', pixels_of(labels).T[..., None], AFFINE)
    write_nifti(folder / 'seg_sa_ED.nii.gz', labels.T[..., None], AFFINE)
    (whole,) = run(tmp_path / 'in', tmp_path / 'class').values()
    (parts,) = run(tmp_path / 'in', tmp_path / 'component', instances='component').values()
    assert whole['parts'] == dict(LV=1, Myo=1, RV=1)
    assert parts['parts'] == dict(LV=2, Myo=1, RV=2)
    assert_same_masks({0: parts}, {0: whole})


def test_empty_slices_are_kept_on_request(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A', extra=0)
    images = run(tmp_path / 'in', tmp_path / 'out', keep_empty=True)
    assert {z: len(image['masks']) for (_, _, z), image in images.items()} == {
        0: 0,
        1: 3,
        2: 3,
        3: 3,
    }


def test_grid_tolerance_takes_the_rounding_of_headers(tmp_path):
    folder = tmp_path / 'in' / 'A'
    write_nifti_patient(folder)
    expected = run(tmp_path / 'in', tmp_path / 'before')
    label = nibabel.load(folder / 'seg_sa_ED.nii.gz')
    affine = label.affine + 1e-4 * np.random.default_rng(0).standard_normal((4, 4))
    affine[3] = [0, 0, 0, 1]
    write_nifti(folder / 'seg_sa_ED.nii.gz', np.asanyarray(label.dataobj), affine)
    assert_same_masks(run(tmp_path / 'in', tmp_path / 'after'), expected)
    assert not np.array_equal(affine, shifted(-2))


def test_a_frame_that_info_cfg_names_and_that_has_no_file_is_reported(tmp_path):
    write_acdc(tmp_path / 'in')
    folder = tmp_path / 'in' / 'training' / 'patient001'
    for name in ('patient001_frame12.nii.gz', 'patient001_frame12_gt.nii.gz'):
        (folder / name).unlink()
    (study,) = nifti.find_studies(tmp_path / 'in', 'acdc', None, None)
    left_out = Counter()
    items = list(study.read(LabelMap.parse(nifti.LAYOUTS['acdc'].labels), left_out))
    assert {item.phase for item in items} == {'ED'}
    assert left_out == {'ES frames that Info.cfg names and that have no file': 1}


def volume_ml(entries: dict[tuple, dict]) -> float:
    return sum(
        entry['masks']['LV'].sum()
        * np.prod(np.broadcast_to(entry['spacing_mm'], 2))
        * entry['slice_spacing_mm']
        / 1000
        for entry in entries.values()
    )


@pytest.mark.filterwarnings('ignore::swin_ext.study.errors.StudyWarning')
@pytest.mark.parametrize('shift', [0, 4, -6])
@pytest.mark.parametrize('units', [1, 2, 0, 5])
def test_volume_of_sheared_volumes_and_odd_units(tmp_path, shift, units):
    """Distance along the normal; 1.25 'metres' are mm."""
    affine = AFFINE.copy()
    affine[0, 2] = shift
    folder = tmp_path / 'in' / 'A'
    labels = np.stack([heart(6).T] * 3, -1)
    for name, array in (('sa_ED', pixels_of(labels)), ('seg_sa_ED', labels)):
        write_nifti(folder / f'{name}.nii.gz', array, affine, xyzt_units=units)
    found = volume_ml(run(tmp_path / 'in', tmp_path / 'out'))
    assert found == pytest.approx(3 * (heart(6) == 1).sum() * 1.25**2 * 8 / 1000)


def test_units_of_image_and_label_may_differ(tmp_path):
    write_nifti_patient(tmp_path / 'in' / 'A')
    expected = run(tmp_path / 'in', tmp_path / 'before')
    path = tmp_path / 'in' / 'A' / 'seg_sa_ED.nii.gz'
    label = nibabel.load(path)
    metres = np.diag([1e-3, 1e-3, 1e-3, 1]) @ label.affine
    write_nifti(path, np.asanyarray(label.dataobj), metres, xyzt_units=1)
    assert_same_masks(run(tmp_path / 'in', tmp_path / 'after'), expected)
