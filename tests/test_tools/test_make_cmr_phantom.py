import json
import math
import re
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from scipy import ndimage

from swin_ext.conversion import phantom_dataset
from swin_ext.conversion.phantom_anatomy import simulate_patient
from swin_ext.conversion.phantom_command import main
from swin_ext.conversion.phantom_images import (
    SUPERSAMPLING,
    acquire,
    add_rician_noise,
    render_slice,
)
from swin_ext.conversion.phantom_parameters import PhantomParameters

LV, MYO, RV = 1, 2, 3
# Few and coarse slices, where the test is not about the pictures.
TINY = ['--patients', '2', '--size', '64', '--slice-gap-mm', '20']


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    """Folder of a data set of 5 patients with all other parameters at their defaults.

    Seed 0 has RVs (patient 1 at ED) whose cusps are thin enough to come off in pieces.
    """
    out = tmp_path_factory.mktemp('phantom') / 'data'
    main(['--out', str(out), '--patients', '5', '--seed', '0'])
    return out


@pytest.fixture(scope='module')
def slices(dataset):
    """All images as (COCO image entry, annotations, {category: mask}, grey image)."""
    found = []
    for split in ('train', 'val'):
        coco = COCO(str(dataset / f'{split}.json'))
        for image_id, entry in coco.imgs.items():
            annotations = coco.imgToAnns[image_id]
            masks = {a['category_id']: coco.annToMask(a).astype(bool) for a in annotations}
            image = cv2.imread(str(dataset / 'images' / entry['file_name']), cv2.IMREAD_UNCHANGED)
            found.append((entry, annotations, masks, image))
    return found


@pytest.fixture
def patients():
    """The patients of ``dataset``, drawn anew from its seed."""
    return {
        f'patient{index:04d}': simulate_patient(
            np.random.default_rng(np.random.SeedSequence(0, spawn_key=(index,)))
        )
        for index in range(5)
    }


def read_bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


# ---- the files ----------------------------------------------------------------------------------


def test_the_seed_determines_every_byte(tmp_path):
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        main(['--out', str(tmp_path / name), '--seed', seed, *TINY])
    a, b, c = (read_bytes(tmp_path / name) for name in 'abc')
    assert a == b
    image = 'images/patient0000_ED_slice00.png'
    assert a[image] != c[image]


def test_more_patients_leave_the_earlier_ones_as_they_were(tmp_path):
    main(['--out', str(tmp_path / 'two'), *TINY])
    main(['--out', str(tmp_path / 'three'), *TINY, '--patients', '3'])
    two, three = (read_bytes(tmp_path / name / 'images') for name in ('two', 'three'))
    assert two.items() < three.items()


def test_a_patient_is_in_one_split_only(dataset):
    by_split, names = {}, []
    for split in ('train', 'val'):
        images = json.loads((dataset / f'{split}.json').read_text())['images']
        by_split[split] = {image['patient_id'] for image in images}
        names += [image['file_name'] for image in images]
    assert len(by_split['train']) == 4 and len(by_split['val']) == 1
    assert not by_split['train'] & by_split['val']
    assert sorted(names) == sorted(path.name for path in (dataset / 'images').iterdir())


@pytest.mark.parametrize(
    'patients, val_fraction, expected',
    [(2, 0.25, 1), (3, 0.9, 2), (10, 0.01, 1), (40, 0.25, 10), (40, 0.5, 20)],
)
def test_number_of_held_out_patients(patients, val_fraction, expected):
    assert PhantomParameters(patients, val_fraction).num_val() == expected


def test_image_entries(slices):
    for entry, _, _, image in slices:
        assert image.dtype == np.uint8 and image.shape == (entry['height'], entry['width'])
        assert (entry['width'], entry['height']) == (128, 128)
        assert entry['spacing_mm'] == 1.8
        assert entry['slice_spacing_mm'] == 8
        assert entry['file_name'] == (
            f'{entry["patient_id"]}_{entry["phase"]}_slice{entry["slice"]:02d}.png'
        )
    assert {entry['phase'] for entry, *_ in slices} == {'ED', 'ES'}


# ---- the annotations ----------------------------------------------------------------------------


def test_boxes_and_areas_are_those_of_the_masks(slices):
    for _, annotations, _, _ in slices:
        for annotation in annotations:
            assert isinstance(annotation['segmentation']['counts'], str)
            mask = mask_utils.decode(annotation['segmentation'])
            rows, columns = np.nonzero(mask)
            assert annotation['area'] == rows.size >= 20
            assert annotation['bbox'] == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]
            assert annotation['iscrowd'] == 0


def test_structures_are_disjoint_and_in_one_piece(slices):
    for entry, annotations, masks, _ in slices:
        assert len(annotations) == len(masks), 'a category has two instances'
        assert MYO in masks
        assert sum(mask.astype(int) for mask in masks.values()).max() == 1
        for category, mask in masks.items():
            assert ndimage.label(mask)[1] == 1, (entry['file_name'], category)


def test_the_cavity_is_the_hole_of_the_ring(slices):
    with_cavity = 0
    for entry, _, masks, _ in slices:
        hole = ndimage.binary_fill_holes(masks[MYO]) & ~masks[MYO]
        cavity = masks.get(LV, np.zeros_like(hole))
        assert np.array_equal(hole, cavity), entry['file_name']
        with_cavity += LV in masks
    assert with_cavity > 0.9 * len(slices)


def test_rv_lies_at_the_septum_in_all_but_the_apical_slices(slices):
    has_rv = defaultdict(dict)
    for entry, _, masks, _ in slices:
        has_rv[entry['patient_id'], entry['phase']][entry['slice']] = RV in masks
        if RV in masks:
            assert (ndimage.binary_dilation(masks[RV]) & masks[MYO]).sum() >= 5
    assert len(has_rv) == 10
    for present in has_rv.values():
        base_to_apex = [present[number] for number in sorted(present)]
        assert base_to_apex == sorted(base_to_apex, reverse=True)
        assert base_to_apex[0] and not base_to_apex[-1]


def test_sizes_suit_a_detector(slices, patients):
    widest = defaultdict(int)
    for entry, _, masks, _ in slices:
        # The radius of the largest disc in the ring is half of its wall.
        assert 2 * ndimage.distance_transform_edt(masks[MYO]).max() >= 4, entry['file_name']
        if LV in masks:
            diameter = 2 * math.sqrt(masks[LV].sum() / math.pi)
            widest[entry['patient_id']] = max(widest[entry['patient_id']], diameter)
    assert widest.keys() == patients.keys()
    assert all(23 <= diameter <= 33 for diameter in widest.values())


def test_volumes_follow_the_ejection_fraction(slices, patients):
    """The slices sum up to the closed form of half an ellipsoid and give the patient's EF."""
    volumes = defaultdict(float)
    for entry, _, masks, _ in slices:
        if LV in masks:
            volumes[entry['patient_id'], entry['phase']] += masks[LV].sum() * 1.8**2 * 8
    for patient_id, patient in patients.items():
        ed, es = volumes[patient_id, 'ED'], volumes[patient_id, 'ES']
        assert es < ed
        assert 1 - es / ed == pytest.approx(patient.ejection_fraction, abs=0.05)
        assert ed == pytest.approx(
            2 / 3 * math.pi * patient.lv_radius**2 * patient.lv_length, rel=0.1
        )
        assert 0.35 <= patient.ejection_fraction <= 0.70


def test_the_wall_thickens_in_systole(patients):
    for patient in patients.values():
        (_, radius, wall), (height, es_radius, es_wall) = (
            patient.lv_shape(z, phase)
            for z, phase in (
                (patient.lv_length, 'ED'),
                (patient.lv_length * (1 - 0.25 * patient.ejection_fraction), 'ES'),
            )
        )
        assert height == pytest.approx(1) and es_wall > wall and es_radius < radius
        # Incompressible: the cross-section of the wall grows as the long axis shortens.
        section, es_section = (
            (r + w) ** 2 - r**2 for r, w in ((radius, wall), (es_radius, es_wall))
        )
        assert es_section / section == pytest.approx(1 / (1 - 0.25 * patient.ejection_fraction))


# ---- the images ---------------------------------------------------------------------------------


def test_blood_is_brighter_than_muscle(slices):
    for entry, _, masks, image in slices:
        for blood in {LV, RV} & masks.keys():
            assert image[masks[blood]].mean() > 1.7 * image[masks[MYO]].mean(), entry['file_name']


@pytest.mark.parametrize('sigma', [0.01, 3.0])
def test_rician_noise_without_signal_is_rayleigh_distributed(sigma):
    noise = add_rician_noise(np.zeros((400, 500)), sigma, np.random.default_rng(0))
    assert noise.mean() == pytest.approx(sigma * math.sqrt(math.pi / 2), rel=0.01)
    assert noise.std() == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)


@pytest.mark.parametrize('signal', [-2.0, 2.0])
def test_rician_noise_keeps_the_second_moment(signal):
    noisy = add_rician_noise(np.full((400, 500), signal), 0.7, np.random.default_rng(0))
    assert (noisy**2).mean() == pytest.approx(signal**2 + 2 * 0.7**2, rel=0.01)


def test_noise_in_the_air_of_an_image(patients):
    patient = replace(patients['patient0000'], noise_sigma=0.025)
    shared = dict(z=patient.lv_length / 2, phase='ED', size=128, spacing_mm=1.8)
    clean, _ = render_slice(
        replace(patient, noise_sigma=0.0), rng=np.random.default_rng(1), **shared
    )
    noisy, _ = render_slice(patient, rng=np.random.default_rng(1), **shared)
    air = ndimage.binary_erosion(clean == 0, iterations=4)
    assert air.sum() > 500
    assert noisy[air].mean() / 255 == pytest.approx(0.025 * math.sqrt(math.pi / 2), rel=0.05)


@pytest.mark.parametrize('cycles', [(0, 0), (3, 0), (5, -7)])
def test_acquisition_keeps_low_frequencies_in_place(cycles):
    size = 64
    fine = np.arange(size * SUPERSAMPLING) / SUPERSAMPLING

    def wave(position):
        rows, columns = np.meshgrid(position, position, indexing='ij')
        return np.cos(2 * np.pi * (cycles[0] * rows + cycles[1] * columns) / size + 0.4)

    np.testing.assert_allclose(acquire(wave(fine)), wave(np.arange(size)), atol=1e-4)


def test_acquisition_removes_what_the_image_grid_cannot_hold():
    columns = np.arange(128)
    anatomy = np.tile(np.cos(2 * np.pi * 50 * columns / 128), (128, 1))  # 50 > 64 / 2 cycles
    np.testing.assert_allclose(acquire(anatomy), 0, atol=1e-10)


# ---- refusals and safety ------------------------------------------------------------------------


def test_same_parameters_again_do_nothing(tmp_path, capsys):
    out = tmp_path / 'data'
    main(['--out', str(out), *TINY])
    before = {path: path.stat().st_mtime_ns for path in out.rglob('*')}
    capsys.readouterr()
    main(['--out', str(out), *TINY])
    assert 'nothing to do' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*')} == before


def test_other_parameters_need_overwrite(tmp_path, capsys):
    out = tmp_path / 'data'
    main(['--out', str(out), *TINY])
    before = read_bytes(out)
    with pytest.raises(SystemExit):
        main(['--out', str(out), *TINY, '--seed', '5'])
    assert '--overwrite' in capsys.readouterr().err
    assert read_bytes(out) == before

    main(['--out', str(out), *TINY, '--seed', '5', '--overwrite'])
    main(['--out', str(tmp_path / 'fresh'), *TINY, '--seed', '5'])
    assert read_bytes(out) == read_bytes(tmp_path / 'fresh')
    assert sorted(path.name for path in tmp_path.iterdir()) == ['data', 'fresh']


def test_a_folder_of_something_else_is_never_replaced(tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('years of work')
    with pytest.raises(SystemExit):
        main(['--out', str(tmp_path), *TINY, '--overwrite'])
    assert 'no phantom.json' in capsys.readouterr().err
    assert read_bytes(tmp_path) == {'thesis.tex': b'years of work'}


def test_an_empty_folder_is_used(tmp_path):
    main(['--out', str(tmp_path), *TINY])
    assert (tmp_path / 'phantom.json').is_file()


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_crash_leaves_everything_as_it_was(tmp_path, monkeypatch, overwrite):
    out = tmp_path / 'data'
    if overwrite:
        main(['--out', str(out), *TINY])
    before = read_bytes(tmp_path)
    encode, calls = phantom_dataset.encode_instances, []

    def crash_at_the_fifth_image(labels):
        calls.append(labels)
        if len(calls) == 5:
            raise RuntimeError('power cut')
        return encode(labels)

    monkeypatch.setattr(phantom_dataset, 'encode_instances', crash_at_the_fifth_image)
    with pytest.raises(RuntimeError, match='power cut'):
        main(['--out', str(out), *TINY, '--seed', '9', '--overwrite'])
    assert read_bytes(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == (['data'] if overwrite else [])


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(phantom_dataset.cv2, 'imwrite', lambda *_: False)
    with pytest.raises(OSError, match=r'could not write .*patient0000_ED_slice00\.png'):
        main(['--out', str(tmp_path / 'data'), *TINY])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    'arguments, message',
    [
        (['--patients', '1'], r'--patients is 1: at least 2'),
        (['--val-fraction', '0'], r'--val-fraction is 0\.0'),
        (['--val-fraction', '1'], r'--val-fraction is 1\.0'),
        (['--seed', '-1'], r'--seed is -1'),
        (['--size', '63'], r'--size is 63: at least 64 px'),
        (['--size', '0'], r'--size is 0'),
        (['--spacing-mm', '-1'], r'--spacing-mm is -1\.0: it must lie in \(0, 3\.6\]'),
        (['--spacing-mm', '3.7'], r'--spacing-mm is 3\.7'),
        (['--spacing-mm', 'nan'], r'--spacing-mm is nan'),
        (
            ['--size', '100', '--spacing-mm', '1.8'],
            r'field of view of 180 mm; the heart needs 200 mm',
        ),
        (['--slice-gap-mm', '0'], r'--slice-gap-mm is 0\.0'),
        (['--slice-gap-mm', '50'], r'--slice-gap-mm is 50\.0'),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        main(['--out', str(tmp_path / 'data'), *arguments])
    assert error.value.code == 2
    assert not list(tmp_path.iterdir())
    assert re.search(message, ' '.join(capsys.readouterr().err.split()))
