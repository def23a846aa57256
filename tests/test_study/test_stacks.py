"""Place: stacks of discs against area times distance in closed form."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from study_files import (
    AXIAL,
    CORONAL,
    ENHANCED_MR,
    SIZE,
    UID_ROOT,
    area_px,
    disc,
    group,
    item,
    strip_preamble,
    volume_ml,
    write_dicom,
)

from swin_ext.study.errors import StudyError
from swin_ext.study.reading import read_study
from swin_ext.study.stacks import choose_short_axis

ML_PER_SLICE = area_px(8) * 1.5 * 1.5 * 8 / 1000


def write_slices(folder: Path, positions: list[float], first: int = 1, **tags) -> list[Path]:
    """Axial discs, numbered in the order of `positions`."""
    paths = []
    for number, z in enumerate(positions, first):
        paths.append(folder / f'{number:03d}.dcm')
        write_dicom(paths[-1], number, **dict(dict(ImagePositionPatient=[0, 0, z]), **tags))
    return paths


def only_stack(folder: Path):
    (stack,) = read_study(folder).stacks
    return stack


@pytest.mark.parametrize('order', list(itertools.permutations([0, 8, 16])))
def test_slices_are_sorted_by_position(tmp_path, order):
    write_slices(tmp_path, list(order))
    stack = only_stack(tmp_path)
    assert [item.position_mm for item in stack.slices] == [0, 8, 16]
    assert [item.number for item in stack.slices] == [0, 1, 2]
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    assert stack.warnings == () and stack.missing == ()


@pytest.mark.parametrize(
    'orientation, corner',
    [
        (AXIAL, lambda d: [3, 4, d]),
        (CORONAL, lambda d: [3, d, 5]),
        ([0, 1, 0, 0, 0, -1], lambda d: [d, 3, 4]),
        ([0.6, 0.8, 0, 0, 0, -1], lambda d: [-0.8 * d + 100, 0.6 * d, 5]),
        # Corners that drift within the plane, too.
        ([0.6, 0.8, 0, 0, 0, -1], lambda d: [-0.8 * d + 0.6 * d, 0.6 * d + 0.8 * d, 5]),
    ],
)
def test_distance_is_along_the_normal_of_any_plane(tmp_path, orientation, corner):
    for number, distance in enumerate((0, 8, 16), 1):
        write_dicom(
            tmp_path / f'{number}.dcm',
            number,
            ImageOrientationPatient=orientation,
            ImagePositionPatient=corner(distance),
        )
    stack = only_stack(tmp_path)
    assert stack.slice_spacing_mm == pytest.approx(8)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)


def test_another_orientation_in_the_series_is_another_stack(tmp_path):
    write_slices(tmp_path, [0, 8])
    write_dicom(tmp_path / '9.dcm', 9, ImageOrientationPatient=CORONAL)
    short, long = read_study(tmp_path).stacks
    assert volume_ml(short) == pytest.approx(2 * ML_PER_SLICE)
    assert (len(short.slices), short.plane) == (2, 'axial')
    assert (len(long.slices), long.plane) == (1, 'coronal')


def test_a_missing_slice_leaves_its_number_out(tmp_path):
    write_slices(tmp_path, [0, 8, 24])
    stack = only_stack(tmp_path)
    assert [item.number for item in stack.slices] == [0, 1, 3] and stack.missing == (2,)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    assert len(stack.warnings) == 1 and 'not filled' in stack.warnings[0]


def test_irregular_distances_give_no_volume(tmp_path):
    write_slices(tmp_path, [0, 8, 19])
    stack = only_stack(tmp_path)
    assert stack.slice_spacing_mm is None and 'irregular' in stack.warnings[0]


@pytest.mark.parametrize(
    'said, words',
    [(-8, 'negative'), (10, 'SpacingBetweenSlices says 10'), (4, 'says 4'), (8, None), (0, None)],
)
@pytest.mark.parametrize('thickness', [None, 6, 12])
def test_positions_go_before_tags(tmp_path, said, words, thickness):
    write_slices(tmp_path, [0, 8, 16], SpacingBetweenSlices=said, SliceThickness=thickness)
    stack = only_stack(tmp_path)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    assert [words in text for text in stack.warnings] == ([True] if words else [])


@pytest.mark.parametrize(
    'tags, distance',
    [
        (dict(SpacingBetweenSlices=10, SliceThickness=8), 10),
        (dict(SpacingBetweenSlices=-10, SliceThickness=8), 10),
        (dict(SliceThickness=8), 8),
        (dict(SliceThickness=-8), None),
        (dict(SliceThickness=0), None),
        (dict(SpacingBetweenSlices=9000), None),
        ({}, None),
    ],
)
def test_distance_of_a_single_slice(tmp_path, tags, distance):
    write_slices(tmp_path, [0], **tags)
    assert only_stack(tmp_path).slice_spacing_mm == distance


def test_flipped_normals_are_one_stack(tmp_path):
    write_slices(tmp_path, [0, 8])
    write_slices(tmp_path, [16, 24], first=3, ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    stack = only_stack(tmp_path)
    assert [item.position_mm for item in stack.slices] == [0, 8, 16, 24]
    assert volume_ml(stack) == pytest.approx(4 * ML_PER_SLICE)


@pytest.mark.parametrize('name', ['IM_0002', '002.dcm', 'slice.raw'])
def test_a_file_without_preamble_is_found(tmp_path, name):
    paths = write_slices(tmp_path, [0, 8, 16])
    strip_preamble(paths[1])
    paths[1].rename(tmp_path / name)
    study = read_study(tmp_path)
    (stack,) = study.stacks
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    assert stack.warnings == () and study.left_out == ()


def test_what_is_no_image_is_left_out_with_the_reason(tmp_path):
    write_slices(tmp_path, [0, 8])
    (tmp_path / 'notes.txt').write_text('hello')
    (tmp_path / 'DICOMDIR').write_bytes(b'\0' * 128 + b'DICM')
    (tmp_path / '.hidden').write_text('x')
    write_dicom(tmp_path / 'report.dcm', 50, Rows=None, Columns=None)
    left_out = {item.path.name: item.reason for item in read_study(tmp_path).left_out}
    assert left_out == {
        'notes.txt': 'it is neither DICOM nor NIfTI',
        'DICOMDIR': 'it is neither DICOM nor NIfTI',
        'report.dcm': 'it is DICOM, but no image',
    }


def test_series_and_matrix_sizes_in_one_folder_are_kept_apart(tmp_path):
    write_slices(tmp_path, [0, 8, 16])
    write_slices(tmp_path, [0, 8], first=11, SeriesInstanceUID=f'{UID_ROOT}.0.2')
    write_slices(tmp_path, [0, 8, 16, 24], first=21, pixels=disc(6, SIZE * 2))
    write_slices(tmp_path, [0, 8], first=31, PixelSpacing=[0.75, 0.75])
    stacks = read_study(tmp_path).stacks
    assert [len(stack.slices) for stack in stacks] == [3, 2, 4, 2]
    assert volume_ml(stacks[0]) == pytest.approx(3 * ML_PER_SLICE)


def test_series_of_one_slice_each_are_one_stack(tmp_path):
    for number, z in enumerate((8, 0, 16), 1):
        for time in (0, 40):
            write_dicom(
                tmp_path / f'{number}_{time}.dcm',
                10 * number + time,
                ImagePositionPatient=[0, 0, z],
                SeriesInstanceUID=f'{UID_ROOT}.0.{number}',
                TriggerTime=time,
            )
    stack = only_stack(tmp_path)
    assert [sorted(item.frames) for item in stack.slices] == [[0, 1]] * 3
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)


def test_a_repeated_slice_in_a_series_of_its_own_is_kept_apart(tmp_path):
    for number, z in enumerate((0, 8, 8, 16), 1):
        write_dicom(
            tmp_path / f'{number}.dcm',
            number,
            ImagePositionPatient=[0, 0, z],
            SeriesInstanceUID=f'{UID_ROOT}.0.{number}',
        )
    assert sorted(len(stack.slices) for stack in read_study(tmp_path).stacks) == [1, 3]


@pytest.mark.parametrize(
    'tags, distance',
    [({}, 8), (dict(SpacingBetweenSlices=8), 8), (dict(ImageOrientationPatient=None), 8)],
)
def test_slice_location_serves_where_there_is_no_position(tmp_path, tags, distance):
    for number, z in enumerate((16, 0, 8), 1):
        write_dicom(
            tmp_path / f'{number}.dcm', number, SliceLocation=z, ImagePositionPatient=None, **tags
        )
    stack = only_stack(tmp_path)
    assert [item.frames[0].number for item in stack.slices] == [2, 3, 1]
    assert stack.slice_spacing_mm == distance
    assert any('SliceLocation' in text for text in stack.warnings)


def test_slice_location_against_the_tag_is_refused(tmp_path):
    """Real scanners write a SliceLocation that is no distance along the normal."""
    for number in (1, 2, 3):
        write_dicom(
            tmp_path / f'{number}.dcm',
            number,
            SliceLocation=5.29 * number,
            ImagePositionPatient=None,
            SpacingBetweenSlices=8,
        )
    with pytest.raises(ValueError, match='SpacingBetweenSlices says 8 mm, but SliceLocation 5.29'):
        read_study(tmp_path)


def test_slice_location_does_not_matter_beside_positions(tmp_path):
    for number, z in enumerate((0, 8, 16), 1):
        write_dicom(
            tmp_path / f'{number}.dcm',
            number,
            SliceLocation=-5.29 * number,
            ImagePositionPatient=[0, 0, z],
        )
    stack = only_stack(tmp_path)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE) and stack.warnings == ()


def test_frames_without_any_place_are_left_out(tmp_path):
    write_slices(tmp_path, [0, 8])
    write_dicom(tmp_path / '9.dcm', 9, ImagePositionPatient=None)
    study = read_study(tmp_path)
    assert len(study.stacks) == 1
    assert [(item.path.name, item.reason) for item in study.left_out] == [
        ('9.dcm', 'its header does not say where it lies')
    ]


def test_two_images_of_one_place_and_no_time_are_refused(tmp_path):
    write_slices(tmp_path, [0, 8, 8], InstanceNumber=1)
    with pytest.raises(ValueError, match='no tag .* says their order in time'):
        read_study(tmp_path)


def test_thin_slices_are_not_merged(tmp_path):
    write_slices(tmp_path, [0.4 * z for z in range(6)])
    stack = only_stack(tmp_path)
    assert len(stack.slices) == 6 and stack.slice_spacing_mm == pytest.approx(0.4)


def test_short_axis_is_chosen_by_geometry(tmp_path):
    oblique, number = [0.6, 0.8, 0, 0, 0, -1], 0
    for series, orientation, normal, count, phases in (
        (1, AXIAL, (0, 0, 1), 9, 1),  # a localiser
        (2, oblique, (-0.8, 0.6, 0), 3, 2),
        (3, CORONAL, (0, 1, 0), 4, 2),
        (4, [0.8, -0.6, 0, 0, 0, -1], (0.6, 0.8, 0), 1, 2),  # a long axis
    ):
        for z, time in itertools.product(range(count), range(phases)):
            number += 1
            write_dicom(
                tmp_path / f'{number}.dcm',
                number,
                ImageOrientationPatient=orientation,
                ImagePositionPatient=(8 * z * np.array(normal)).tolist(),
                SeriesInstanceUID=f'{UID_ROOT}.0.{series}',
                TriggerTime=40 * time,
            )
    stacks = read_study(tmp_path).stacks
    assert len(stacks) == 4
    chosen, others = choose_short_axis(list(stacks))
    assert (len(chosen.slices), chosen.num_phases, chosen.plane) == (3, 2, 'oblique')
    assert {(len(stack.slices), reason) for stack, reason in others} == {
        (9, 'has one phase only'),
        (4, 'lies along an axis of the body'),
        (1, 'has fewer slices'),
    }
    assert choose_short_axis([]) == (None, [])


@pytest.mark.parametrize(
    'axes', [[0, 1, 0, 1, 0, 0], [0, 1, 0, -1, 0, 0], [-1, 0, 0, 0, -1, 0]], ids=str
)
def test_images_that_are_turned_within_their_plane_are_warned_of(tmp_path, axes):
    write_slices(tmp_path, [0, 16])
    write_slices(tmp_path, [8], first=3, ImageOrientationPatient=axes)
    stack = only_stack(tmp_path)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    (warning,) = stack.warnings
    assert 'turned or mirrored' in warning


@pytest.mark.parametrize('shift, warned', [(0, False), (1.4, False), (3, True)])
def test_images_that_are_shifted_within_their_plane_are_warned_of(tmp_path, shift, warned):
    for number, z in enumerate((0, 8, 16), 1):
        position = [shift * (z == 16), 0, z]
        write_dicom(tmp_path / f'{number}.dcm', number, ImagePositionPatient=position)
    stack = only_stack(tmp_path)
    assert volume_ml(stack) == pytest.approx(3 * ML_PER_SLICE)
    assert ['shifted within their plane by up to 3.0 mm' in w for w in stack.warnings] == (
        [True] * warned
    )


def test_positions_in_metres_are_no_phases_of_one_slice(tmp_path):
    write_slices(tmp_path, [0, 0.008, 0.016])
    with pytest.raises(StudyError, match='each of 3 images has a position of its own, but all'):
        read_study(tmp_path)


def test_slices_far_from_each_other_have_no_volume(tmp_path):
    """As localisers have them."""
    write_slices(tmp_path, [0, 80, 160], SpacingBetweenSlices=80)
    stack = only_stack(tmp_path)
    assert stack.slice_spacing_mm is None and len(stack.slices) == 3
    assert 'slices lie 80 mm apart' in stack.warnings[0]


def test_orientations_and_spacings_within_one_enhanced_object(tmp_path):
    """Frames in any order: an axial and a coronal stack, and two pixels of another size."""
    places = [('axial', z) for z in (8, 0, 16)] + [('coronal', z) for z in (0, 16, 8)]
    places += [('coarse', z) for z in (8, 0)]
    write_dicom(
        tmp_path / 'enhanced.dcm',
        1,
        np.stack([disc(8)] * len(places)),
        SOPClassUID=ENHANCED_MR,
        NumberOfFrames=len(places),
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        PerFrameFunctionalGroupsSequence=[
            item(
                PixelMeasuresSequence=group(
                    PixelSpacing=[3, 3] if kind == 'coarse' else [1.5, 1.5]
                ),
                PlaneOrientationSequence=group(
                    ImageOrientationPatient=CORONAL if kind == 'coronal' else AXIAL
                ),
                PlanePositionSequence=group(
                    ImagePositionPatient=[0, z, 0] if kind == 'coronal' else [0, 0, z]
                ),
            )
            for kind, z in places
        ],
    )
    axial, coronal, coarse = read_study(tmp_path).stacks
    assert [volume_ml(stack) for stack in (axial, coronal)] == pytest.approx([3 * ML_PER_SLICE] * 2)
    assert volume_ml(coarse) == pytest.approx(2 * 4 * ML_PER_SLICE)
    order = [place.frames[0].frame_index for place in axial.slices]
    assert order == [1, 0, 2] and axial.plane == 'axial' and coronal.plane == 'coronal'
