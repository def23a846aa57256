"""DICOM series with contour files and DICOM-SEG, against the shapes they were written from."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from cmr_files import (
    ED_NUMBERS,
    ES_NUMBERS,
    HEIGHT,
    WIDTH,
    circle,
    heart,
    pixels_of,
    read_coco,
    write_contour,
    write_contour_patient,
    write_dicom,
    write_segmentation,
    write_segmentation_patient,
)

from swin_ext.conversion import dicom
from swin_ext.conversion.coco_writer import Settings
from swin_ext.conversion.convert import Split, convert
from swin_ext.conversion.study import ConversionError, LabelMap
from swin_ext.images.reading import read_frame
from swin_ext.study.dicom_headers import read_frames
from swin_ext.study.errors import StudyWarning
from swin_ext.study.stacks import build_stacks
from swin_ext.utils.optional import MissingPackageError


def run(
    root: Path,
    out: Path,
    labels='1=LV,2=Myo',
    contours='contours/{patient}',
    segmentations=None,
    images='dicom/{patient}',
    link=None,
    **settings,
) -> list[dict]:
    studies = dicom.find_studies(root, images, contours, segmentations, link)
    settings = dict(dict(patient_ids='folder'), **settings)
    convert(studies, out, Settings(LabelMap.parse(labels), **settings), Split(val_fraction=0))
    return read_coco(out / 'train.json')


def test_frames_with_both_contours_become_cavity_and_ring(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    images = run(tmp_path / 'in', tmp_path / 'out')
    assert [image['file_name'] for image in images] == ['A/A_0019.png', 'A/A_0039.png']
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    distance = np.hypot(y - 18, x - 28)
    for image in images:
        lv, myo = image['masks']['LV'], image['masks']['Myo']
        assert not (lv & myo).any() and image['parts'] == dict(LV=1, Myo=1)
        assert lv[distance < 7].all() and not lv[distance > 9.5].any()
        assert myo[(distance > 9.5) & (distance < 11)].all() and not myo[distance > 13.5].any()
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['left_out'] == {'frames without both contours': 2, 'frames without a contour': 1}


def test_phase_slice_and_spacing_come_from_the_geometry(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    images = run(tmp_path / 'in', tmp_path / 'out', labels='1=LV')
    found = {int(image['file_name'][-8:-4]): (image['phase'], image['slice']) for image in images}
    assert found == {8: ('ES', 0), 19: ('ED', 0), 28: ('ES', 1), 39: ('ED', 1)}
    assert set(ES_NUMBERS + ED_NUMBERS) == set(found)
    assert {(image['phase'], image['frame']) for image in images} == {('ES', 7), ('ED', 18)}
    assert {(image['spacing_mm'], image['slice_spacing_mm']) for image in images} == {(1.25, 8)}


def test_one_annotated_phase_stays_unnamed(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    for number in ES_NUMBERS:
        (tmp_path / 'in' / 'contours' / 'A' / f'IM-0001-{number:04d}-icontour-manual.txt').unlink()
    assert [image.get('phase') for image in run(tmp_path / 'in', tmp_path / 'out')] == [None] * 2


def test_link_names_the_folder_of_the_contours(tmp_path):
    root = tmp_path / 'in'
    write_contour_patient(root, 'A')
    expected = run(root, tmp_path / 'before')
    (root / 'contours' / 'A').rename(root / 'contours' / 'SC-1')
    (root / 'link.csv').write_text('patient_id,original_id\nA,SC-1\n')
    run(root, tmp_path / 'after', link=root / 'link.csv')
    assert len(expected) == 2
    assert (tmp_path / 'after' / 'train.json').read_bytes() == (
        tmp_path / 'before' / 'train.json'
    ).read_bytes()


def test_pixels_equal_the_library_s(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    for image in run(tmp_path / 'in', tmp_path / 'out', pixels='png16'):
        found = cv2.imread(str(tmp_path / 'out' / 'images' / image['file_name']), -1)
        source = tmp_path / 'in' / image['source_file']
        np.testing.assert_array_equal(found, pydicom.dcmread(source).pixel_array)


def test_png8_window_is_that_of_the_image(tmp_path):
    write_contour_patient(tmp_path / 'in', 'A')
    for image in run(tmp_path / 'in', tmp_path / 'out'):
        found = cv2.imread(str(tmp_path / 'out' / 'images' / image['file_name']), -1)
        pixels = pydicom.dcmread(tmp_path / 'in' / image['source_file']).pixel_array
        low, high = np.percentile(pixels, [0.5, 99.5])
        expected = np.floor(np.clip((pixels - low) / (high - low), 0, 1) * 255)
        assert np.abs(found - expected).max() <= 1


def test_segments_of_dicom_seg_become_classes(tmp_path):
    pytest.importorskip('highdicom')
    label_maps = write_segmentation_patient(tmp_path / 'in', 'A')
    images = run(
        tmp_path / 'in', tmp_path / 'out', '1=LV,2=Myo,3=RV', None, '{patient}', '{patient}'
    )
    assert [image['slice'] for image in images] == [0, 1, 2]
    assert images[2]['masks'] == {}  # beyond the labelled ones: no label is an answer, too
    for image in images[:2]:
        assert list(image['masks']) == ['LV', 'Myo', 'RV']
        for value, mask in enumerate(image['masks'].values(), 1):
            np.testing.assert_array_equal(mask, label_maps[image['slice']] == value)
        assert image['source_file'] == f'A/sa/{image["slice"]}.dcm'


def write_multi_frame(path: Path, frames: np.ndarray):
    """Enhanced MR image of one volume, with what the standard asks for, and identifying tags."""
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    dataset = write_dicom(
        path,
        frames[0],
        phases=None,
        NumberOfFrames=len(frames),
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        SliceThickness=None,
        SOPClassUID='1.2.840.10008.5.1.4.1.1.4.1',
    )

    def item(**elements):
        item = Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        return item

    def group(**elements):
        return Sequence([item(**elements)])

    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.SharedFunctionalGroupsSequence = group(
        PixelMeasuresSequence=group(
            PixelSpacing=[1.25, 1.5], SliceThickness=8, SpacingBetweenSlices=8
        ),
        PlaneOrientationSequence=group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
    )
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        [
            item(
                PlanePositionSequence=group(ImagePositionPatient=[-20.0, -30.0, 8.0 * z]),
                FrameContentSequence=group(DimensionIndexValues=[z + 1]),
            )
            for z in range(len(frames))
        ]
    )
    dataset.ImageType = ['ORIGINAL', 'PRIMARY', 'CARDIAC', 'NONE']
    dataset.DimensionOrganizationSequence = group(DimensionOrganizationUID='1.2.3.4')
    dataset.DimensionIndexSequence = group(
        DimensionIndexPointer=0x00200032,
        FunctionalGroupPointer=0x00209113,
        DimensionOrganizationUID='1.2.3.4',
    )
    dataset.PixelData = frames.astype(np.int16).tobytes()
    dataset.save_as(path, write_like_original=False)
    return dataset


def test_segmented_multi_frame_files_are_read_frame_by_frame(tmp_path):
    pytest.importorskip('highdicom')
    label_maps = np.choose(np.stack([heart(5), heart(6)]), [0, 1, 2, 0, 3]).astype(np.uint8)
    frames = np.stack([pixels_of(heart(5), 1), pixels_of(heart(6), 2)])
    source = write_multi_frame(tmp_path / 'in' / 'A' / 'volume.dcm', frames)
    write_segmentation(tmp_path / 'in' / 'A' / 'seg.dcm', [source], label_maps)
    images = run(
        tmp_path / 'in',
        tmp_path / 'out',
        '1=LV,2=Myo,3=RV',
        None,
        '{patient}',
        '{patient}',
        pixels='none',
    )
    assert [(image['slice'], image['frame_index']) for image in images] == [(0, 0), (1, 1)]
    for image in images:
        z = image['slice']
        for value, mask in enumerate(image['masks'].values(), 1):
            np.testing.assert_array_equal(mask, label_maps[z] == value)
        assert image['spacing_mm'] == [1.25, 1.5] and image['slice_spacing_mm'] == 8
        np.testing.assert_array_equal(
            read_frame(tmp_path / 'in' / image['file_name'], frame_index=image['frame_index']),
            frames[z],
        )


def test_slices_are_numbered_along_the_normal_of_the_planes(tmp_path):
    oblique = [0.6, 0.8, 0, 0, 0, -1]  # normal (-0.8, 0.6, 0)
    for number, step in enumerate((16, 0, 8), 1):
        write_dicom(
            tmp_path / f'{number}.dcm',
            pixels_of(heart()),
            number,
            ImageOrientationPatient=oblique,
            ImagePositionPatient=[-0.8 * step + 100, 0.6 * step, 5],
        )
    write_dicom(tmp_path / '4.dcm', pixels_of(heart()), 4)  # another view
    frames = read_frames(sorted(tmp_path.glob('*.dcm')))
    numbers = {
        id(frame): (item.number, stack.slice_spacing_mm)
        for stack in build_stacks(frames).stacks
        for item, _, frame in stack.frames()
    }
    assert [numbers[id(frame)][0] for frame in frames] == [2, 0, 1, 0]
    assert [numbers[id(frame)][1] for frame in frames] == pytest.approx([8, 8, 8, 8])


# Whole conversions of discs with a known volume; place and time alone are tested in test_study.
RADII = (16, 12, 8, 12)  # ED is phase 0, ES phase 2


# Observers' contours are filled by one rule or another; both are this close to the circle.
FILL_TOLERANCE = 0.15


def write_labelled(root: Path, number: int, z: float, radius: int, **tags):
    """Image of 1.5 mm pixels, with the inner contour of a circle; returns the data set."""
    write_contour(
        root / 'contours' / 'A' / f'IM-0001-{number:04d}-icontour-manual.txt',
        circle(HEIGHT / 2, WIDTH / 2, radius),
    )
    return write_dicom(
        root / 'dicom' / 'A' / f'{number}.dcm',
        pixels_of(heart()),
        number,
        z,
        **dict(dict(PixelSpacing=[1.5, 1.5], phases=None), **tags),
    )


def cylinder_ml(radius: int, slices: int) -> float:
    return slices * np.pi * radius**2 * 1.5**2 * 8 / 1000


def volumes_ml(images: list[dict]) -> dict:
    """Pixels times spacing times distance by phase: what a metric sums up of the JSON."""
    volumes = {}
    for image in images:
        area = np.sum(image['masks'].get('LV', 0)) * image['spacing_mm'] ** 2
        phase = image.get('phase')
        volumes[phase] = volumes.get(phase, 0) + area * image['slice_spacing_mm'] / 1000
    return volumes


@pytest.mark.parametrize('said', [None, 4])
@pytest.mark.parametrize(
    'number_of', [lambda z, p: 3 * p + z + 1, lambda z, p: 4 * z + p + 1], ids=['phase', 'slice']
)
def test_cines_numbered_phase_by_phase_or_slice_by_slice(tmp_path, number_of, said):
    for z in range(3):
        for phase, radius in enumerate(RADII):
            write_labelled(tmp_path, number_of(z, phase), 8 * z, radius, phases=said)
    volumes = volumes_ml(run(tmp_path, tmp_path / 'out', '1=LV'))
    # 43.4 and 10.9 ml; numbers taken for another order gave a third of it.
    assert volumes['ED'] == pytest.approx(cylinder_ml(16, 3), rel=FILL_TOLERANCE)
    assert volumes['ES'] == pytest.approx(cylinder_ml(8, 3), rel=FILL_TOLERANCE)


def test_contradicting_times_leave_the_study_out_by_name(tmp_path):
    for z in range(3):
        for phase, radius in enumerate(RADII):
            write_labelled(
                tmp_path,
                4 * z + phase + 1,
                8 * z,
                radius,
                TriggerTime=40 * phase,
                TemporalPositionIdentifier=4 - phase,
            )
    with pytest.raises(ConversionError, match='TriggerTime and TemporalPositionIdentifier contra'):
        run(tmp_path, tmp_path / 'out', '1=LV')


def test_another_orientation_is_left_out_of_the_volume(tmp_path):
    for z in range(2):
        write_labelled(tmp_path, z + 1, 8 * z, 16)
    write_labelled(tmp_path, 3, 0, 16, ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    (volume,) = volumes_ml(run(tmp_path, tmp_path / 'out', '1=LV')).values()
    assert volume == pytest.approx(cylinder_ml(16, 2), rel=FILL_TOLERANCE)
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['left_out'] == {
        'labelled frames of another orientation, series or size than the stack': 1
    }


def test_a_missing_slice_keeps_its_number_and_is_said(tmp_path):
    for number, z in enumerate((0, 8, 24), 1):
        write_labelled(tmp_path, number, z, 16)
    with pytest.warns(StudyWarning, match='the gap is not filled'):
        images = run(tmp_path, tmp_path / 'out', '1=LV')
    assert [image['slice'] for image in images] == [0, 1, 3]
    (volume,) = volumes_ml(images).values()
    assert volume == pytest.approx(cylinder_ml(16, 3), rel=FILL_TOLERANCE)
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['left_out'] == {'slices that are missing between others; gaps are not filled': 1}
    assert_warned(tmp_path / 'out', '1 of 4 slices missing (numbers 2); the gap is not filled')


def assert_warned(out, text):
    """The report says it, and the annotation file, from which results get it."""
    warned = json.loads((out / 'report.json').read_text())['study_warnings']
    ((patient, (found,)),) = warned.items()
    assert text in found and 'dicom' not in found  # no path
    content = json.loads((out / 'train.json').read_text())
    assert content['info']['study_warnings'] == warned
    assert {image['patient_id'] for image in content['images']} == {patient}


@pytest.mark.parametrize('said', [-8, 4, 16])
def test_spacing_is_that_of_the_positions(tmp_path, said):
    for z in range(3):
        write_labelled(tmp_path, z + 1, 8 * z, 16, SpacingBetweenSlices=said, SliceThickness=6)
    with pytest.warns(StudyWarning, match='SpacingBetweenSlices'):
        images = run(tmp_path, tmp_path / 'out', '1=LV')
    assert_warned(tmp_path / 'out', 'SpacingBetweenSlices')
    assert {image['slice_spacing_mm'] for image in images} == {8}


def test_ed_and_es_are_compared_on_the_slices_that_both_have(tmp_path):
    """ED on 8 slices, ES on 4 basal ones; a median over all would exchange them."""
    for z in range(8):
        write_labelled(tmp_path, 2 * z + 1, 8 * z, 17 - 2 * z, TriggerTime=0)
        if z < 4:
            write_labelled(tmp_path, 2 * z + 2, 8 * z, 16 - 2 * z, TriggerTime=300)
        else:
            write_dicom(
                tmp_path / 'dicom' / 'A' / f'{2 * z + 2}.dcm',
                pixels_of(heart()),
                2 * z + 2,
                8 * z,
                phases=None,
                PixelSpacing=[1.5, 1.5],
                TriggerTime=300,
            )
    images = run(tmp_path, tmp_path / 'out', '1=LV')
    found = {(image['phase'], image['frame']) for image in images}
    assert found == {('ED', 0), ('ES', 1)}
    volumes = volumes_ml(images)
    assert volumes['ED'] > volumes['ES']


def test_phases_without_a_shared_slice_stay_unnamed_with_a_warning(tmp_path):
    for z in range(2):
        for phase in range(2):
            number = 2 * z + phase + 1
            write_labelled(tmp_path, number, 8 * z, 12 - 4 * phase, TriggerTime=300 * phase)
            if phase != z:
                (tmp_path / f'contours/A/IM-0001-{number:04d}-icontour-manual.txt').unlink()
    with pytest.warns(StudyWarning, match='share no labelled slice'):
        images = run(tmp_path, tmp_path / 'out', '1=LV')
    assert_warned(tmp_path / 'out', 'share no labelled slice')
    # Names of their own, lest both times be taken for one stack.
    assert {image.get('phase') for image in images} == {'frame00', 'frame01'}


def test_unlabelled_slices_beyond_the_labelled_ones_are_read(tmp_path):
    """They show a model's predictions beyond base and apex; those between labels do not count."""
    for z in range(6):
        write_labelled(tmp_path, z + 1, 8 * z, 12)
    for number in (1, 4, 6):
        (tmp_path / f'contours/A/IM-0001-{number:04d}-icontour-manual.txt').unlink()
    (study,) = dicom.find_studies(tmp_path, 'dicom/{patient}', 'contours/{patient}', None)
    left_out = Counter()
    items = list(study.read(LabelMap.parse('1=LV'), left_out))
    assert [(item.slice, sorted(item.masks)) for item in items] == [
        (0, []),
        (1, ['LV']),
        (2, ['LV']),
        (4, ['LV']),
        (5, []),
    ]
    assert left_out == {'frames without a contour': 1}


def test_files_that_are_no_dicom_are_counted(tmp_path):
    write_labelled(tmp_path, 1, 0, 12)
    (tmp_path / 'dicom' / 'A' / 'notes').write_text('hello')
    run(tmp_path, tmp_path / 'out', '1=LV')
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert report['left_out'] == {'files among the images that are no DICOM': 1}


def test_a_missing_package_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(MissingPackageError, match='Reading DICOM-SEG needs highdicom: pip install'):
        dicom.find_studies(tmp_path, 'dicom/{patient}', None, 'seg/{patient}')
