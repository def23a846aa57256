"""Which stack of a study is segmented, and what is said of the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from segmentable import (
    FOUR_CHAMBER,
    PHASES,
    SHORT_AXIS,
    UID_ROOT,
    corner_of,
    pixels_of,
    truth,
    write_cine,
    write_dicom,
)
from swin_ext.inference.inputs import InputError, find_studies
from swin_ext.inference.short_axis import is_short_axis
from swin_ext.inference.study_stack import StudyStack, read_stack
from swin_ext.study.errors import StudyError


def stack_of(folder: Path, **options) -> StudyStack:
    (study,) = find_studies([folder], Counter())
    return read_stack(study, **options)


def write_series(folder: Path, series: int, slices: int, phases: int, **tags) -> None:
    for index in range(slices):
        for phase in range(phases):
            number = index * phases + phase + 1
            write_dicom(
                folder / f'series{series}_{number}.dcm',
                f'77.{series}.{number}',
                pixels_of(truth(phase, index)),
                **{
                    **dict(
                        SeriesInstanceUID=f'{UID_ROOT}.77.{series}',
                        SeriesNumber=series,
                        InstanceNumber=number,
                        TriggerTime=str(20.0 * phase),
                        ImagePositionPatient=corner_of(index).tolist(),
                    ),
                    **tags,
                },
            )


FOUR = dict(ImageOrientationPatient=FOUR_CHAMBER.ravel().tolist())
AXIAL = dict(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])


def write_whole_study(folder: Path) -> Path:
    """Short-axis cine (5), four chambers (6), late enhancement (7) and localiser (8)."""
    write_cine(folder)
    write_series(folder, 6, 1, 9, **FOUR, SeriesDescription='cine_4ch')
    write_series(folder, 7, 5, 1, SeriesDescription='LGE SA PLANTED')
    write_series(folder, 8, 6, 1, **AXIAL)
    return folder


def test_the_cine_across_the_heart_is_chosen(tmp_path):
    stack = stack_of(write_whole_study(tmp_path))
    assert (stack.num_phases, len(stack.slice_numbers)) == (4, 3)
    assert {place.header.series_uid for place in stack.frames.values()} == {f'{UID_ROOT}.77.1'}
    assert sorted(stack.left_out) == [
        'series 6 (1 slices x 9 phases, 40 x 48 pixels) does not lie across the heart',
        'series 7 (5 slices x 1 phases, 40 x 48 pixels) has one phase only',
        'series 8 (6 slices x 1 phases, 40 x 48 pixels) does not lie across the heart',
    ]


@pytest.mark.parametrize(
    'series, phases, slices',
    [('7', 1, 5), ('lge*', 1, 5), ('*4CH', 9, 1), (f'{UID_ROOT}.77.8', 1, 6), ('*cine*', 9, 1)],
)
def test_a_series_is_chosen_by_number_uid_or_description(tmp_path, series, phases, slices):
    stack = stack_of(write_whole_study(tmp_path), series=series)
    assert (stack.num_phases, len(stack.slice_numbers)) == (phases, slices)
    assert any('series 5' in text and 'is not the chosen' in text for text in stack.left_out)


def test_a_series_that_is_not_there(tmp_path):
    write_whole_study(tmp_path)
    with pytest.raises(
        StudyError, match=r"no series of it is '99'; it has series 5 \(3 slices x 4"
    ):
        stack_of(tmp_path, series='99')
    image = tmp_path / 'x.npy'
    np.save(image, np.eye(9))
    (study,) = find_studies([image], Counter())
    with pytest.raises(InputError, match='has no series'):
        read_stack(study, series='5')


@pytest.mark.parametrize('tags', [FOUR, AXIAL], ids=['four chambers', 'axial'])
def test_a_study_without_short_axis(tmp_path, tags):
    write_series(tmp_path, 6, 1, 9, **tags)
    with pytest.raises(StudyError, match='none of its planes lies across the heart.*series 6'):
        stack_of(tmp_path)
    assert stack_of(tmp_path, series='6').num_phases == 9
    # A file that the user named is what is wanted.
    (study,) = find_studies([tmp_path / 'series6_1.dcm'], Counter())
    stack = read_stack(study)
    assert (stack.num_phases, len(stack.slice_numbers)) == (1, 1)
    assert 'taken as short axis' in stack.assumptions[0]


def test_planes_along_the_heart_are_no_short_axis():
    """Of an axis up to 44 degrees off the usual one, the plane across it is one."""
    rng = np.random.default_rng(0)
    usual = np.cross(*SHORT_AXIS)
    for _ in range(200):
        tilt = rng.normal(size=3)
        tilt -= tilt @ usual * usual
        angle = np.radians(rng.uniform(0, 44))
        axis = np.cos(angle) * usual + np.sin(angle) * tilt / np.linalg.norm(tilt)
        along = np.cross(axis, rng.normal(size=3))
        assert is_short_axis(tuple(axis)) and is_short_axis(tuple(-axis))
        assert not is_short_axis(tuple(along / np.linalg.norm(along)))


def test_slices_of_another_matrix_are_told(tmp_path):
    write_cine(tmp_path)
    for path in tmp_path.glob('*.dcm'):
        dataset = pydicom.dcmread(path)
        if dataset.InstanceNumber <= PHASES:  # the slice at the far end
            dataset.Rows = 39
            dataset.PixelData = dataset.PixelData[: 39 * 48 * 2]
            dataset.save_as(path)
    stack = stack_of(tmp_path)
    assert stack.slice_numbers == (0, 1)
    assert stack.left_out == (
        'series 5 (1 slices x 4 phases, 39 x 48 pixels) is of the chosen series, but not of its '
        'matrix of 40 x 48 pixels',
    )


def test_missing_phases(tmp_path):
    write_cine(tmp_path, CardiacNumberOfImages=PHASES)
    (tmp_path / '2.dcm').unlink()  # phase 1 of the slice at the far end, which is number 2
    stack = stack_of(tmp_path)
    assert (1, 2) not in stack.frames and len(stack.frames) == 11 and stack.num_phases == 4
    assert '1 of 12 frames of the cardiac cycle are missing' in stack.assumptions


@pytest.mark.parametrize('same', ['SOPInstanceUID', 'TriggerTime'])
def test_duplicate_frames_are_an_error_also_beside_another_stack(tmp_path, same):
    write_cine(tmp_path)
    write_series(tmp_path, 7, 1, 3)  # could be chosen, if the cine were dropped
    copy = pydicom.dcmread(tmp_path / '1.dcm')
    if same == 'TriggerTime':
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = f'{UID_ROOT}.9.9'
    copy.save_as(tmp_path / '13.dcm')
    match = 'SOP instance UID of another' if same == 'SOPInstanceUID' else 'place and the Trigger'
    with pytest.raises(StudyError, match=match):
        stack_of(tmp_path)


def test_a_missing_slice_keeps_the_others_in_place(tmp_path):
    write_cine(tmp_path, slices=4)
    for number in range(5, 9):  # slice 2
        (tmp_path / f'{number}.dcm').unlink()
    stack = stack_of(tmp_path)
    assert stack.slice_numbers == (0, 1, 3)
    assert np.allclose(np.diff(stack.slice_positions_mm), [8, 16], atol=1e-4)
    assert any('1 of 4 slices missing (numbers 2)' in text for text in stack.assumptions)


def test_times_body_and_burned_in_text(tmp_path):
    stack = stack_of(write_cine(tmp_path / 'a'))
    assert stack.times_ms.tolist() == [10, 60, 110, 160]
    assert (stack.body.height_m, stack.body.weight_kg) == (1.75, 70)
    stack = stack_of(write_cine(tmp_path / 'b', PatientSize='0', PatientWeight=None))
    assert (stack.body.height_m, stack.body.weight_kg) == (None, None)
    write_cine(tmp_path / 'c', BurnedInAnnotation='YES')
    with pytest.raises(ValueError, match='--allow-burned-in'):
        stack_of(tmp_path / 'c')
    assert stack_of(tmp_path / 'c', allow_burned_in=True).num_phases == 4


def test_real_study(real_data):
    stack = stack_of(real_data / 'sunnybrook_study' / 'SCD0000301')
    assert (stack.num_phases, len(stack.slice_numbers), len(stack.frames)) == (20, 10, 200)
    assert stack.slice_spacing_mm == pytest.approx(8, abs=1e-3) and not stack.left_out
    assert stack.times_ms[0] == 10 and (np.diff(stack.times_ms) > 0).all()
