"""DICOM segmentations against dciodvfy and pydicom."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from segmented import segmented

from segmentable import (
    IDENTIFYING,
    SHORT_AXIS,
    UID_ROOT,
    corner_of,
    pixels_of,
    read_segmentation,
    sequence,
    truths,
    write_cine,
    write_dicom,
)
from swin_ext.inference.outputs.dicom_seg import SEG_FOLDER, write_dicom_seg
from swin_ext.study.errors import StudyError

pytest.importorskip('highdicom')


def written(tmp_path, source: Path, anonymous: bool = False, **options):
    study, stack, _ = segmented(source, **options)
    out = tmp_path / 'out'
    out.mkdir()
    write_dicom_seg(study, stack, out, anonymous)
    return sorted((out / SEG_FOLDER).iterdir())


def errors_of(path: Path) -> list[str]:
    if shutil.which('dciodvfy') is None:
        pytest.skip('dciodvfy (Debian dicom3tools) is not installed')
    done = subprocess.run(['dciodvfy', str(path)], capture_output=True, text=True)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith('Error')]


def test_pydicom_gives_back_every_pixel(tmp_path):
    paths = written(tmp_path, write_cine(tmp_path / 'in'))
    assert [path.name for path in paths] == [f'phase{t:03d}.dcm' for t in range(4)]
    for phase, path in enumerate(paths):
        found = read_segmentation(path)
        assert len(found) == 3
        for index in range(3):
            (labels,) = [
                labels for place, labels in found.items() if np.allclose(place, corner_of(index))
            ]
            assert np.array_equal(labels, truths()[phase, index])
        dataset = pydicom.dcmread(path)
        shared = dataset.SharedFunctionalGroupsSequence[0]
        orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
        assert np.allclose(orientation, SHORT_AXIS.ravel(), atol=1e-6)
        assert list(shared.PixelMeasuresSequence[0].PixelSpacing) == [1.25, 1.5]


def test_dciodvfy_has_no_errors(tmp_path):
    for path in written(tmp_path, write_cine(tmp_path / 'in', phases=2)):
        assert not errors_of(path)


def test_frames_are_referenced_and_segments_coded(tmp_path):
    paths = written(tmp_path, write_cine(tmp_path / 'in'))
    datasets = [pydicom.dcmread(path) for path in paths]
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == 4
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 1
    sources = {
        pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID: pydicom.dcmread(path)
        for path in (tmp_path / 'in').iterdir()
    }
    for phase, dataset in enumerate(datasets):
        assert dataset.FrameOfReferenceUID == f'{UID_ROOT}.88'
        (series,) = dataset.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == f'{UID_ROOT}.77.1'
        assert len(series.ReferencedInstanceSequence) == 3
        for group in dataset.PerFrameFunctionalGroupsSequence:
            place = group.PlanePositionSequence[0].ImagePositionPatient
            (reference,) = group.DerivationImageSequence[0].SourceImageSequence
            source = sources[reference.ReferencedSOPInstanceUID]
            assert source.TriggerTime == 50 * phase + 10
            assert np.allclose(place, source.ImagePositionPatient)
        kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in dataset.SegmentSequence]
        # SNOMED CT: left ventricle, myocardium of left ventricle, right ventricle.
        assert [kind.CodeValue for kind in kinds] == ['87878005', '49848007', '53085002']
        assert {kind.CodingSchemeDesignator for kind in kinds} == {'SCT'}
        assert [item.SegmentLabel for item in dataset.SegmentSequence] == ['LV', 'Myo', 'RV']


def test_empty_frames_are_kept(tmp_path):
    """Three segments in three slices are nine frames, though the model finds nothing in one."""
    folder = write_cine(tmp_path / 'in', phases=1)
    path = folder / '1.dcm'
    dataset = pydicom.dcmread(path)
    dataset.PixelData = pixels_of(np.zeros((40, 48), np.uint8)).tobytes()
    dataset.save_as(path)
    (segmentation,) = written(tmp_path, folder)
    assert pydicom.dcmread(segmentation).NumberOfFrames == 9
    assert not errors_of(segmentation)


def test_slices_in_series_of_their_own(tmp_path):
    folder = tmp_path / 'in'
    for index in range(3):
        for phase in range(2):
            write_dicom(
                folder / f'{index}_{phase}.dcm',
                f'5.{index + 1}.{phase + 1}',
                pixels_of(truths()[phase, index]),
                SeriesInstanceUID=f'{UID_ROOT}.5.{index + 1}',
                ImagePositionPatient=corner_of(index).tolist(),
                TriggerTime=str(30.0 * phase),
                InstanceNumber=phase + 1,
            )
    paths = written(tmp_path, folder)
    for phase, path in enumerate(paths):
        series = pydicom.dcmread(path).ReferencedSeriesSequence
        assert sorted(item.SeriesInstanceUID for item in series) == [
            f'{UID_ROOT}.5.{number}' for number in (1, 2, 3)
        ]
        assert sorted(labels.sum() for labels in read_segmentation(path).values()) == sorted(
            truths()[phase].sum((1, 2))
        )
        assert not errors_of(path)


def test_frames_of_a_multi_frame_object(tmp_path):
    """An enhanced MR object: its frames are referenced by number."""
    frames = [(index, phase) for index in range(3) for phase in range(2)]
    per_frame = []
    for index, phase in frames:
        group = sequence(
            PlanePositionSequence=sequence(ImagePositionPatient=corner_of(index).tolist()),
            CardiacSynchronizationSequence=sequence(NominalCardiacTriggerDelayTime=20.0 * phase),
        )[0]
        per_frame.append(group)
    shared = sequence(
        PlaneOrientationSequence=sequence(ImageOrientationPatient=SHORT_AXIS.ravel().tolist()),
        PixelMeasuresSequence=sequence(PixelSpacing=[1.25, 1.5], SliceThickness='8'),
    )
    path = tmp_path / 'in' / 'enhanced.dcm'
    write_dicom(
        path,
        '6.1',
        pixels_of(np.array([truths()[phase, index] for index, phase in frames])),
        SOPClassUID='1.2.840.10008.5.1.4.1.1.4.1',
        NumberOfFrames=6,
        PixelSpacing=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        SliceThickness=None,
        PerFrameFunctionalGroupsSequence=pydicom.Sequence(per_frame),
        SharedFunctionalGroupsSequence=shared,
    )
    for phase, segmentation in enumerate(written(tmp_path, path.parent)):
        found = read_segmentation(segmentation)
        for index in range(3):
            (labels,) = [v for place, v in found.items() if np.allclose(place, corner_of(index))]
            assert np.array_equal(labels, truths()[phase, index])
        numbers = Counter()
        for group in pydicom.dcmread(segmentation).PerFrameFunctionalGroupsSequence:
            (reference,) = group.DerivationImageSequence[0].SourceImageSequence
            assert reference.ReferencedSOPInstanceUID == f'{UID_ROOT}.6.1'
            assert reference.ReferencedSOPClassUID == '1.2.840.10008.5.1.4.1.1.4.1'
            index, frame_phase = frames[reference.ReferencedFrameNumber - 1]
            assert frame_phase == phase
            place = group.PlanePositionSequence[0].ImagePositionPatient
            assert np.allclose(place, corner_of(index))
            numbers[reference.ReferencedFrameNumber] += 1
        assert set(numbers.values()) == {3}
        assert not errors_of(segmentation)


def test_the_patient_is_that_of_the_source_or_none(tmp_path):
    source = write_cine(tmp_path / 'in', phases=1)
    (tmp_path / 'a').mkdir()
    (path,) = written(tmp_path / 'a', source)
    dataset = pydicom.dcmread(path)
    for keyword in ('PatientName', 'PatientID', 'PatientBirthDate', 'StudyDate', 'StudyID'):
        assert str(dataset.get(keyword)) == IDENTIFYING[keyword]
    (tmp_path / 'b').mkdir()
    (path,) = written(tmp_path / 'b', source, anonymous=True)
    content = path.read_bytes()
    assert b'PLANTED' not in content
    assert b'19010203' not in content and b'19020304' not in content
    dataset = pydicom.dcmread(path)
    assert dataset.PatientID == 'p0123456789' and dataset.PatientName == ''
    assert dataset.FrameOfReferenceUID == f'{UID_ROOT}.88'
    assert not errors_of(path)


def test_impossible_dates_and_frames_of_reference_of_their_own(tmp_path):
    """As programs that anonymise leave them."""
    folder = write_cine(tmp_path / 'in', phases=1, PatientBirthDate='00000000')
    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = f'{UID_ROOT}.99.{number}'
        dataset.save_as(path)
    (path,) = written(tmp_path, folder)
    assert pydicom.dcmread(path).PatientBirthDate == '' and not errors_of(path)


@pytest.mark.parametrize(
    'tags, match',
    [
        (dict(FrameOfReferenceUID=None), 'no FrameOfReferenceUID.*Leave dicomseg out of --formats'),
        (dict(StudyInstanceUID=None), 'has no StudyInstanceUID'),
    ],
)
def test_a_source_that_cannot_be_referred_to(tmp_path, tags, match):
    with pytest.raises(StudyError, match=match):
        written(tmp_path, write_cine(tmp_path / 'in', phases=1, **tags))


def test_real_study(real_data, tmp_path):
    """Its UIDs break a rule, so that dciodvfy complains of them in any object that refers to it."""
    source = real_data / 'sunnybrook_study' / 'SCD0000301'
    study, stack, _ = segmented(source)
    (tmp_path / 'out').mkdir()
    write_dicom_seg(study, replace(stack, num_phases=2), tmp_path / 'out')  # of 20
    paths = sorted((tmp_path / 'out' / SEG_FOLDER).iterdir())
    assert len(paths) == 2
    found = read_segmentation(paths[1])
    for index in range(10):
        corner = stack.frames[1, index].header.corner_mm
        (labels,) = [v for place, v in found.items() if np.allclose(place, corner, atol=1e-3)]
        assert np.array_equal(labels, study.labels[1, index])
    ours = [
        line
        for line in errors_of(paths[1])
        if 'Leading zeroes in embedded' not in line and 'contains invalid data values' not in line
    ]
    assert not ours
