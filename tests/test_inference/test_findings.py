import numpy as np
import pytest
from beating_heart import PIXEL_MM, beating_heart, disc, relabelled

from swin_ext.inference.findings import SEVERITIES, count_by_frame, find


def places(findings, kind, structure=None):
    return {
        (finding.phase, finding.slice)
        for finding in findings
        if finding.kind == kind and (structure is None or finding.structure == structure)
    }


def changed(place, change):
    """The beating heart with one frame changed in place."""
    study = beating_heart()
    labels = study.labels.copy()
    change(labels[place])
    return find(relabelled(study, labels))


def lose(label):
    def change(frame):
        frame[frame == label] = 0

    return change


def test_a_good_study_has_none():
    assert find(beating_heart()) == []


@pytest.mark.parametrize('label, name', [(1, 'LV'), (2, 'Myo'), (3, 'RV')])
@pytest.mark.parametrize('place', [(5, 2), (0, 2), (4, 3)])
def test_a_structure_lost_amid_the_stack(place, label, name):
    found = changed(place, lose(label))
    assert places(found, 'structure missing') == {place}
    assert {f.structure for f in found if f.kind == 'structure missing'} == {name}
    assert all(f.severity == 'high' for f in found if f.kind == 'structure missing')


def test_a_structure_lost_at_the_base_of_one_phase():
    assert places(changed((5, 0), lose(3)), 'structure missing', 'RV') == {(5, 0)}


def test_a_structure_that_ends_is_not_lost():
    study = beating_heart()
    labels = study.labels.copy()
    labels[:, 0] = 0  # above the base
    labels[3:7, 1] = 0  # which the base leaves in systole
    assert not places(find(relabelled(study, labels)), 'structure missing')


def test_a_frame_that_is_absent_is_not_a_lost_structure():
    study = beating_heart()
    study.labels[3, 2], study.present[3, 2] = 0, False
    study = relabelled(study, study.labels)
    found = find(study)
    assert places(found, 'frame absent') == {(3, 2)}
    assert not places(found, 'structure missing')


def test_a_volume_that_jumps():
    def grow(frame):
        frame[disc(32)] = 1

    found = changed((4, 2), grow)
    for kind in ('volume jumps between slices', 'volume jumps between phases'):
        assert places(found, kind, 'LV') == {(4, 2)}
    texts = [f.text for f in found if f.kind == 'volume jumps between slices']
    assert any('LV is larger than in both slices beside it' in text for text in texts)


@pytest.mark.parametrize('steps, jumps', [(2, False), (4, True), (9, True)])
def test_a_centre_that_jumps(steps, jumps):
    def move(frame):
        frame[:] = np.roll(frame, steps, axis=0)

    found = changed((4, 2), move)
    moved_mm = steps * PIXEL_MM[0]
    expected = {(4, 2)} if jumps else set()
    assert places(found, 'centre jumps between phases', 'LV') == expected
    if moved_mm > 10:
        (text,) = (
            f.text for f in found if f.kind == 'centre jumps between slices' and f.structure == 'LV'
        )
        assert f'{moved_mm:.0f} mm off' in text


def test_a_stack_that_tapers_does_not_jump():
    study = beating_heart(6, 9)
    labels = np.zeros_like(study.labels)
    for item, radius in enumerate((30, 29, 28, 26, 23, 19, 14, 8, 3)):
        labels[:, item, disc(radius + 9)] = 2
        labels[:, item, disc(radius)] = 1
    assert {f.kind for f in find(relabelled(study, labels))} <= {'note on the figures'}


@pytest.mark.parametrize('item, severity', [(2, 'high'), (0, 'low'), (4, 'low')])
def test_lv_outside_myo(item, severity):
    def open_ring(frame):
        half = frame[: len(frame) // 2 + 3]
        half[half == 2] = 0

    found = [f for f in changed((5, item), open_ring) if f.kind == 'LV outside Myo']
    assert [(f.phase, f.slice, f.severity) for f in found] == [(5, item, severity)]
    assert ('consensus' in found[0].text) == (severity == 'low')


def test_two_candidates_and_low_scores():
    study = beating_heart()
    study.candidates[2, 3, 2] = 2
    study.scores[1, 1, 0], study.scores[1, 2, 0] = 0.55, 0.75
    found = find(study)
    assert places(found, 'several candidates', 'RV') == {(2, 3)}
    assert places(found, 'low score', 'LV') == {(1, 1)}
    assert 'score of 0.55' in found[-1].text


def test_stroke_volumes():
    """An RV that does not beat, beside an LV that does."""
    study = beating_heart()
    labels = study.labels.copy()
    labels[labels == 3] = 0
    for phase in range(len(labels)):
        labels[phase, :, :6] = 3  # does not beat
    kinds = {f.kind for f in find(relabelled(study, labels))}
    assert 'stroke volumes differ' in kinds


def test_what_was_assumed_is_said():
    found = find(beating_heart(assumptions=('The spacing of slices is taken from their gaps.',)))
    assert [f.text for f in found if f.kind == 'assumption'] == [
        'The spacing of slices is taken from their gaps.'
    ]


def test_the_most_urgent_first_and_counted_by_frame():
    study = beating_heart(assumptions=('something',))
    study.labels[5, 2][study.labels[5, 2] == 2] = 0
    study = relabelled(study, study.labels)
    study.scores[5, 2, 0] = 0.5
    found = find(study)
    order = [SEVERITIES.index(f.severity) for f in found]
    assert order == sorted(order) and len(set(order)) > 1
    counts = count_by_frame(found, (10, 5))
    assert counts[5, 2] == sum((f.phase, f.slice) == (5, 2) for f in found) >= 3
    assert counts.sum() == counts[5, 2]  # the assumption belongs to no frame


def test_a_study_without_known_classes():
    study = beating_heart(classes=('a', 'b', 'c'))
    assert {f.kind for f in find(study)} == {'note on the figures'}
