"""Header values of every kind of damage: read, passed over, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from study_files import SIZE, strip_preamble, write_dicom

from swin_ext.study import dicom_headers
from swin_ext.study.errors import StudyError
from swin_ext.study.reading import read_study


def spoil(path: Path, keyword: str, vr: str, raw: bytes) -> None:
    """Put the bytes of an element into a file as they are, whatever the standard says of them."""
    dataset = pydicom.dcmread(path)
    tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword))
    dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(raw), raw, 0, False, True, True)
    dataset.save_as(path)


def read(path: Path):
    (frame,) = dicom_headers.read_frames([path])
    return frame


def test_what_a_header_says(tmp_path):
    write_dicom(
        tmp_path / 'a.dcm',
        7,
        ImagePositionPatient=[1, 2, 3],
        PixelSpacing=[1.2, 1.6],
        SliceLocation=-5,
        SpacingBetweenSlices=-8,
        SliceThickness=6,
        TriggerTime=46.5,
        AcquisitionTime='081327.5',
        CardiacNumberOfImages=20,
    )
    frame = read(tmp_path / 'a.dcm')
    assert (frame.height, frame.width, frame.spacing_mm) == (SIZE, SIZE, (1.2, 1.6))
    assert (frame.normal, frame.position_mm) == ((0, 0, 1), 3)
    assert (frame.slice_location_mm, frame.slice_gap_mm, frame.thickness_mm) == (-5, -8, 6)
    assert frame.times == dict(TriggerTime=46.5, AcquisitionTime=8 * 3600 + 13 * 60 + 27.5)
    assert (frame.number, frame.phases_said, frame.frame_index) == (7, 20, None)


@pytest.mark.parametrize(
    'keyword, vr, raw, message',
    [
        ('ImagePositionPatient', 'DS', b'1\\2', 'ImagePositionPatient is not 3 finite numbers'),
        ('ImagePositionPatient', 'DS', b'1\\2\\x ', 'ImagePositionPatient'),
        ('ImagePositionPatient', 'DS', b'1\\2\\nan ', 'ImagePositionPatient'),
        ('ImagePositionPatient', 'DS', b'1\\2\\1e30', 'position lies'),
        ('ImageOrientationPatient', 'DS', b'1\\0\\0\\0\\1 ', 'ImageOrientationPatient'),
        ('ImageOrientationPatient', 'DS', b'1\\0\\0\\1\\0\\0 ', 'perpendicular'),
        ('ImageOrientationPatient', 'DS', b'0\\0\\0\\0\\0\\0 ', 'perpendicular'),
        ('PixelSpacing', 'DS', b'1.5 ', 'PixelSpacing is not 2'),
        ('PixelSpacing', 'DS', b'inf\\1 ', 'PixelSpacing is not 2'),
        ('PixelSpacing', 'DS', b'0\\0 ', 'no pixel spacing'),
        ('PixelSpacing', 'DS', b'', 'no pixel spacing'),
        ('PixelSpacing', 'DS', b'-1\\1', 'PixelSpacing is negative'),
        ('PixelSpacing', 'DS', b'1500\\1500 ', 'cannot be that of a cardiac image'),
        ('NumberOfFrames', 'IS', b'-1', 'NumberOfFrames'),
        ('NumberOfFrames', 'IS', b'999999999 ', 'NumberOfFrames'),
        ('NumberOfFrames', 'IS', b'many', 'NumberOfFrames'),
        ('Rows', 'US', b'', 'no image'),
        ('Rows', 'US', b'\0\0', 'no image'),
        ('SOPInstanceUID', 'UI', b'', 'no instance UID'),
    ],
)
def test_damaged_values_are_refused_by_name(tmp_path, keyword, vr, raw, message):
    path = tmp_path / 'a.dcm'
    write_dicom(path, 1)
    spoil(path, keyword, vr, raw)
    with pytest.raises(StudyError, match=message) as caught:
        read(path)
    assert caught.value.path == str(path) and caught.value.remedy


@pytest.mark.parametrize(
    'keyword, vr, raw',
    [
        ('TriggerTime', 'DS', b'abc '),
        ('TriggerTime', 'DS', b'1\\2 '),
        ('TriggerTime', 'DS', b'nan '),
        ('AcquisitionTime', 'TM', b'noon'),
        ('AcquisitionTime', 'TM', b''),
        ('CardiacNumberOfImages', 'IS', b'x '),
        ('CardiacNumberOfImages', 'IS', b'0 '),
        ('SliceThickness', 'DS', b''),
        ('SpacingBetweenSlices', 'DS', b'inf '),
        ('InstanceNumber', 'IS', b'1.5 '),
        ('SliceLocation', 'DS', b'- '),
        ('NumberOfFrames', 'IS', b''),
    ],
)
def test_damaged_values_that_only_support_others_are_passed_over(tmp_path, keyword, vr, raw):
    path = tmp_path / 'a.dcm'
    write_dicom(path, 1, SpacingBetweenSlices=8, SliceThickness=8)
    spoil(path, keyword, vr, raw)
    frame = read(path)
    assert frame.position_mm == 0 and frame.phases_said is None and not frame.times


@pytest.mark.parametrize('name', ['a', 'a.dcm', 'IM0001'])
def test_files_without_preamble_are_dicom(tmp_path, name):
    write_dicom(tmp_path / name, 3)
    expected = read(tmp_path / name)
    strip_preamble(tmp_path / name)
    assert dicom_headers.is_dicom(tmp_path / name)
    assert read(tmp_path / name) == expected


@pytest.mark.parametrize(
    'content',
    [b'', b'hello world, this is text', b'\x02\0', b'\x89PNG\r\n\x1a\n' + b'\0' * 200, b'\0' * 200],
)
def test_other_files_are_not(tmp_path, content):
    (tmp_path / 'a').write_bytes(content)
    assert not dicom_headers.is_dicom(tmp_path / 'a')


@pytest.mark.parametrize('size', [0, 60, 140, 200, 330])
def test_truncated_headers_are_refused(tmp_path, size):
    path = tmp_path / 'a.dcm'
    write_dicom(path, 1)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StudyError):
        read(path)


def test_frames_that_are_not_described(tmp_path):
    path = tmp_path / 'a.dcm'
    write_dicom(
        path,
        1,
        NumberOfFrames=3,
        PerFrameFunctionalGroupsSequence=[pydicom.Dataset(), pydicom.Dataset()],
    )
    with pytest.raises(StudyError, match='has 3 frames, but describes 2'):
        read(path)


def test_copies_are_refused(tmp_path):
    for name in 'ab':
        write_dicom(tmp_path / f'{name}.dcm', 1)
    with pytest.raises(StudyError, match='SOP instance UID of another file'):
        read_study(tmp_path)


def test_packaged_files_of_pydicom():
    """Sizes and spacing are pydicom's, or the error is one of the package."""
    folder = Path(pydicom.__file__).parent / 'data' / 'test_files'
    paths = [path for path in sorted(folder.rglob('*')) if path.is_file()]
    read_ones = 0
    for path in paths:
        if not dicom_headers.is_dicom(path):
            continue
        try:
            frames = dicom_headers.read_frames([path])
        except StudyError:
            continue
        read_ones += 1
        dataset = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        for frame in frames:
            assert (frame.height, frame.width) == (dataset.Rows, dataset.Columns)
            if 'PixelSpacing' in dataset:
                assert frame.spacing_mm == tuple(map(float, dataset.PixelSpacing))
    assert read_ones > 10


def test_a_loop_of_many_frames_shares_one_header(tmp_path):
    write_dicom(
        tmp_path / 'a.dcm',
        1,
        np.zeros((1, 8, 8)),
        NumberOfFrames=5000,
        FrameTime=40,
        SliceLocation=3,
    )
    frames = dicom_headers.read_frames([tmp_path / 'a.dcm'])
    assert [frame.frame_index for frame in frames] == list(range(5000))
    assert [frame.times for frame in frames[:3]] == [dict(FrameTime=40 * i) for i in range(3)]
    assert {(frame.position_mm, frame.slice_location_mm) for frame in frames} == {(0, 3)}
