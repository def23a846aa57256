"""Time: cines of discs against the volumes that they were written with."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import ENHANCED_MR, area_px, disc, group, item, volume_ml, write_dicom

from swin_ext.study.errors import StudyError
from swin_ext.study.phases import name_phases
from swin_ext.study.reading import read_study

RADII = (16, 12, 8, 12)  # ED is phase 0, ES phase 2
SLICES, PHASES = 3, len(RADII)


def slice_by_slice(z: int, phase: int) -> int:
    return z * PHASES + phase + 1


def phase_by_phase(z: int, phase: int) -> int:
    return phase * SLICES + z + 1


def shuffled(z: int, phase: int) -> int:
    return (7 * (z * PHASES + phase) + 3) % 12 + 1


def write_cine(folder: Path, numbering=slice_by_slice, skip=(), **tags_of) -> None:
    """3 slices of 4 phases at 8 mm; tags are functions of slice and phase."""
    for z in range(SLICES):
        for phase in range(PHASES):
            if (z, phase) in skip:
                continue
            tags = {key: value(z, phase) for key, value in tags_of.items()}
            number = numbering(z, phase)
            write_dicom(
                folder / f'{number:03d}.dcm',
                number,
                disc(RADII[phase]),
                **dict(dict(ImagePositionPatient=[0, 0, 8 * z]), **tags),
            )


def assert_volumes(folder: Path, source: str | None = None) -> None:
    (stack,) = read_study(folder).stacks
    assert stack.num_phases == PHASES
    for phase, radius in enumerate(RADII):
        expected = SLICES * area_px(radius) * 1.5 * 1.5 * 8 / 1000
        assert volume_ml(stack, phase) == pytest.approx(expected)
    if source:
        assert stack.time_source == source


@pytest.mark.parametrize('numbering', [slice_by_slice, phase_by_phase])
@pytest.mark.parametrize('said', [None, PHASES])
def test_series_are_numbered_either_way(tmp_path, numbering, said):
    write_cine(tmp_path, numbering, CardiacNumberOfImages=lambda z, p: said)
    assert_volumes(tmp_path, 'InstanceNumber')


TIMES = dict(
    TriggerTime=lambda z, p: 10 + 46.2 * p,
    NominalPercentageOfCardiacPhase=lambda z, p: 25.0 * p,
    TemporalPositionIdentifier=lambda z, p: p + 1,
    AcquisitionTime=lambda z, p: f'0813{z + 10}.{p * 4:02d}',
    ContentTime=lambda z, p: f'0813{z + 10}.{p * 4:02d}',
)


@pytest.mark.parametrize('tag', list(TIMES))
def test_each_tag_alone_orders_the_frames(tmp_path, tag):
    write_cine(tmp_path, shuffled, **{tag: TIMES[tag]}, InstanceNumber=lambda z, p: None)
    assert_volumes(tmp_path, tag)


@pytest.mark.parametrize('tag', ['TriggerTime', 'NominalPercentageOfCardiacPhase'])
def test_times_go_before_numbers(tmp_path, tag):
    write_cine(tmp_path, shuffled, **{tag: TIMES[tag]})
    assert_volumes(tmp_path, tag)
    (stack,) = read_study(tmp_path).stacks
    assert 'not numbered in the order' in stack.warnings[0]


def test_heart_rates_that_differ_from_slice_to_slice(tmp_path):
    """RR of 600, 900 and 1200 ms: phase 3 of one comes before phase 2 of another."""
    write_cine(tmp_path, phase_by_phase, TriggerTime=lambda z, p: (600 + 300 * z) * p / PHASES)
    assert_volumes(tmp_path, 'TriggerTime')


@pytest.mark.parametrize(
    'one, other',
    [
        ('TriggerTime', 'TemporalPositionIdentifier'),
        ('TriggerTime', 'NominalPercentageOfCardiacPhase'),
        ('TriggerTime', 'AcquisitionTime'),
        ('TemporalPositionIdentifier', 'AcquisitionTime'),
        ('AcquisitionTime', 'InstanceNumber'),
    ],
)
def test_contradicting_tags_are_refused_by_name(tmp_path, one, other):
    backwards = dict(TIMES, InstanceNumber=slice_by_slice)[other]
    write_cine(
        tmp_path,
        **{one: TIMES[one], other: lambda z, p: backwards(z, 3 - p if z == 1 else p)},
    )
    with pytest.raises(StudyError, match=f'{one} and {other} contradict each other'):
        read_study(tmp_path)


@pytest.mark.parametrize(
    'quiet',
    [
        dict(TriggerTime=lambda z, p: 0),
        dict(TriggerTime=lambda z, p: ''),
        dict(TemporalPositionIdentifier=lambda z, p: 1),
        dict(AcquisitionTime=lambda z, p: '082621'),
        dict(TriggerTime=lambda z, p: 40 * p if z else None),
    ],
    ids=['trigger time of zero', 'empty', 'constant identifier', 'one clock time', 'in some only'],
)
def test_tags_that_say_nothing_are_passed_over(tmp_path, quiet):
    write_cine(tmp_path, phase_by_phase, **quiet)
    assert_volumes(tmp_path, 'InstanceNumber')


@pytest.mark.parametrize('tag', ['AcquisitionTime', 'ContentTime'])
@pytest.mark.parametrize('before', [1, 2, 3])
def test_clocks_pass_midnight(tmp_path, tag, before):
    """Of the slice in the middle, 1 to 3 frames were taken before midnight."""

    def clock(z, p):
        seconds = (z - 1) * 300 + (p - before) * 2.5
        minutes, seconds = divmod(seconds % 86400, 60)
        return f'{int(minutes // 60):02d}{int(minutes % 60):02d}{seconds:04.1f}'

    assert clock(1, before - 1) == '235957.5' and clock(1, before) == '000000.0'
    write_cine(tmp_path, shuffled, **{tag: clock}, InstanceNumber=lambda z, p: None)
    assert_volumes(tmp_path, tag)


def test_clocks_that_pass_midnight_agree_with_trigger_times(tmp_path):
    write_cine(
        tmp_path,
        shuffled,
        TriggerTime=TIMES['TriggerTime'],
        AcquisitionTime=lambda z, p: ('235958', '235959', '000000.5', '000001')[p],
    )
    assert_volumes(tmp_path, 'TriggerTime')


def hours_apart(z, p):
    return ('080000', '081000', '220000', '221000')[p] if z == 1 else TIMES['AcquisitionTime'](z, p)


def test_acquisitions_of_two_times_of_a_day_are_refused(tmp_path):
    write_cine(tmp_path, AcquisitionTime=hours_apart)
    with pytest.raises(StudyError, match='AcquisitionTime the images of its slice .* half a day'):
        read_study(tmp_path)


def test_images_made_anew_hours_later_are_ordered_by_what_else_there_is(tmp_path):
    write_cine(tmp_path, ContentTime=hours_apart)
    assert_volumes(tmp_path, 'InstanceNumber')


@pytest.mark.parametrize('time', ['240000', '996160', '126000', '120062', '12:00:00', 'noon'])
def test_times_that_no_clock_shows_say_nothing(tmp_path, time):
    write_cine(
        tmp_path, AcquisitionTime=lambda z, p: TIMES['AcquisitionTime'](z, 3 - p) if p else time
    )
    assert_volumes(tmp_path, 'InstanceNumber')


def test_ties_of_one_tag_are_told_apart_by_another(tmp_path):
    write_cine(
        tmp_path,
        TriggerTime=lambda z, p: max(0, p - 1) * 40,
        TemporalPositionIdentifier=TIMES['TemporalPositionIdentifier'],
    )
    assert_volumes(tmp_path, 'TemporalPositionIdentifier')


def test_two_images_of_one_place_and_time_are_refused_by_name(tmp_path):
    write_cine(tmp_path, TriggerTime=lambda z, p: 40 * p)
    write_dicom(tmp_path / 'copy.dcm', 77, ImagePositionPatient=[0, 0, 8], TriggerTime=40)
    with pytest.raises(
        StudyError, match=r'TriggerTime of another image. Keep one of it and \w+.dcm'
    ):
        read_study(tmp_path)


@pytest.mark.parametrize(
    'tags, numbering',
    [
        (dict(CardiacNumberOfImages=lambda z, p: PHASES), slice_by_slice),
        (dict(CardiacNumberOfImages=lambda z, p: PHASES), phase_by_phase),
        ({}, phase_by_phase),
        (dict(TriggerTime=TIMES['TriggerTime']), shuffled),
        (dict(TemporalPositionIdentifier=TIMES['TemporalPositionIdentifier']), shuffled),
    ],
)
def test_a_lost_frame_does_not_shift_the_others(tmp_path, tags, numbering):
    write_cine(tmp_path, numbering, skip={(1, 1)}, **tags)
    (stack,) = read_study(tmp_path).stacks
    assert stack.num_phases == PHASES
    assert [sorted(place.frames) for place in stack.slices] == [
        [0, 1, 2, 3],
        [0, 2, 3],
        [0, 1, 2, 3],
    ]
    assert volume_ml(stack, 2) == pytest.approx(SLICES * area_px(8) * 1.5 * 1.5 * 8 / 1000)
    assert any('1 of 12 frames' in text for text in stack.warnings)


def test_lost_frames_that_nothing_tells_are_refused(tmp_path):
    write_cine(
        tmp_path,
        skip={(1, 1)},
        TriggerTime=lambda z, p: (600 + 300 * z) * p / PHASES,
        InstanceNumber=lambda z, p: None,
    )
    with pytest.raises(StudyError, match=r'different numbers of phases \(3, 4\)'):
        read_study(tmp_path)


@pytest.mark.parametrize('said, tags', [(3, {}), (2, {}), (1, {})])
def test_more_images_than_phases_are_refused(tmp_path, said, tags):
    write_cine(tmp_path, CardiacNumberOfImages=lambda z, p: said, **tags)
    with pytest.raises(StudyError, match=f'says {said} phases, but 4 images'):
        read_study(tmp_path)


def test_trigger_time_goes_before_the_number_of_phases(tmp_path):
    write_cine(tmp_path, CardiacNumberOfImages=lambda z, p: 2, TriggerTime=TIMES['TriggerTime'])
    assert_volumes(tmp_path, 'TriggerTime')


@pytest.mark.parametrize(
    'tags',
    [dict(FrameTime=40), dict(FrameTimeVector=[0, 40, 40, 41])],
    ids=['FrameTime', 'FrameTimeVector'],
)
def test_frames_of_a_classic_loop_follow_each_other(tmp_path, tags):
    import numpy as np

    for z in range(SLICES):
        write_dicom(
            tmp_path / f'{z}.dcm',
            z + 1,
            np.stack([disc(radius) for radius in RADII]),
            NumberOfFrames=PHASES,
            ImagePositionPatient=[0, 0, 8 * z],
            **tags,
        )
    assert_volumes(tmp_path, 'FrameTime')


@pytest.mark.parametrize(
    'group_name, keyword, value',
    [
        ('FrameContentSequence', 'TemporalPositionIndex', lambda p: p + 1),
        ('CardiacSynchronizationSequence', 'NominalCardiacTriggerDelayTime', lambda p: 46.2 * p),
        ('CardiacSynchronizationSequence', 'NominalPercentageOfCardiacPhase', lambda p: 25.0 * p),
    ],
)
@pytest.mark.parametrize('order', [slice_by_slice, phase_by_phase])
def test_enhanced_multi_frame_objects(tmp_path, group_name, keyword, value, order):
    import numpy as np

    places = sorted(
        ((z, p) for z in range(SLICES) for p in range(PHASES)), key=lambda place: order(*place)
    )
    write_dicom(
        tmp_path / 'enhanced.dcm',
        1,
        np.stack([disc(RADII[p]) for _, p in places]),
        SOPClassUID=ENHANCED_MR,
        NumberOfFrames=len(places),
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        PixelSpacing=None,
        SharedFunctionalGroupsSequence=group(
            PixelMeasuresSequence=group(PixelSpacing=[1.5, 1.5], SliceThickness=5),
            PlaneOrientationSequence=group(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        ),
        PerFrameFunctionalGroupsSequence=[
            item(
                PlanePositionSequence=group(ImagePositionPatient=[0, 0, 8 * z]),
                **{group_name: group(**{keyword: value(p)})},
            )
            for z, p in places
        ],
    )
    assert_volumes(tmp_path, keyword)


def test_real_cine(real_data):
    """ED and ES of a whole study as its readme has them: by trigger time and expert contours."""
    from swin_ext.conversion.contours import polygon_area, read_contour

    (stack,) = read_study(real_data / 'sunnybrook_study' / 'SCD0000301').stacks
    assert (len(stack.slices), stack.num_phases, stack.time_source) == (10, 20, 'TriggerTime')
    assert stack.slice_spacing_mm == pytest.approx(8, abs=1e-3) and stack.warnings == ()
    assert stack.plane == 'oblique'
    contours = real_data / 'sunnybrook_dicom' / 'contours' / 'SC-HF-I-4'
    areas = {}
    for place, phase, frame in stack.frames():
        path = contours / f'IM-0001-{int(frame.path.stem):04d}-icontour-manual.txt'
        if path.is_file():
            polygon = read_contour(path, frame.height, frame.width)
            areas[place.number, phase] = polygon_area(polygon) * 1.2891**2
    names, warnings = name_phases(areas)
    assert names == {19: 'ED', 6: 'ES'} and warnings == []
    volumes = {
        names[index]: sum(area for (_, phase), area in areas.items() if phase == index) * 8 / 1000
        for index in names
    }
    assert volumes == pytest.approx(dict(ED=229.7, ES=179.6), abs=0.05)


@pytest.mark.parametrize(
    'patient, phases',
    [
        ('SCD0000101', [7, 18]),
        ('SCD0000201', [6, 19]),
        ('SCD0000301', [6, 19]),
        ('SCD0000401', [6, 19]),
        ('SCD0000501', [8, 18]),
    ],
)
def test_real_frames_chosen_from_cines(real_data, patient, phases):
    """Phases are those of the whole cine of 20, though two of each slice are there at most."""
    (stack,) = read_study(real_data / 'sunnybrook_dicom' / 'dicom' / patient).stacks
    assert stack.num_phases == 20
    assert sorted({phase for _, phase, _ in stack.frames()}) == phases


@pytest.mark.parametrize(
    'areas, names, words',
    [
        # ED on 8 slices, ES on the 4 basal ones: medians have ES larger (EF negative).
        (
            {(z, 18): 900 - 100 * z for z in range(8)}
            | {(z, 7): 0.85 * (900 - 100 * z) for z in range(4)},
            {18: 'ED', 7: 'ES'},
            [],
        ),
        ({(0, 3): 5, (0, 9): 7}, {3: 'ES', 9: 'ED'}, []),
        ({(0, 3): 5, (0, 9): 7, (0, 5): 6}, {3: 'ES', 5: 'phase05', 9: 'ED'}, []),
        ({(0, 3): 5, (1, 9): 7}, {}, ['share no labelled slice']),
        (
            {(0, 3): 5, (1, 3): 5, (0, 9): 7, (1, 9): 7, (2, 5): 99},
            {3: 'ES', 5: 'phase05', 9: 'ED'},
            ['share no labelled slice'],
        ),
        ({(0, 3): 5, (1, 3): 4}, {}, []),
        ({(0, 3): 5, (0, 9): 5}, {}, ['of one size']),
        ({}, {}, []),
    ],
)
def test_names_of_phases(areas, names, words):
    found, warnings = name_phases(areas)
    assert found == names
    assert len(warnings) == len(words) and all(w in text for w, text in zip(words, warnings))
