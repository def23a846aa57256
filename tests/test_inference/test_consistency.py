import numpy as np
import pytest
from beating_heart import beating_heart, disc, relabelled
from scipy import ndimage

from swin_ext.inference.consistency import (
    CORRECTIONS,
    close_rings,
    largest_parts,
    smooth_phases,
)


def test_the_largest_part_stays():
    labels = beating_heart(2, 2).labels
    speckled = labels.copy()
    speckled[0, 1, :3, :4], speckled[1, 0, -2:, -2:] = 1, 3
    np.testing.assert_array_equal(largest_parts(speckled, 3), labels)
    assert speckled[0, 1, 0, 0] == 1  # what was given is as before


def test_a_ring_in_pieces_stays():
    labels = ring(0, 20) * 1
    labels[0, 0][ring(180, 200)[0, 0] == 0] = 0
    np.testing.assert_array_equal(largest_parts(labels, 2), labels)


def test_parts_that_touch_at_a_corner_are_one():
    labels = np.zeros((1, 1, 6, 6), np.uint8)
    labels[0, 0, :3, :3] = labels[0, 0, 3:, 3:] = 1
    np.testing.assert_array_equal(largest_parts(labels, 1), labels)


def ring(angle_from=0.0, angle_to=0.0, inner=16.0, outer=24.0):
    """(1, 1, H, W): LV in Myo, which lacks a sector of its circle."""
    y, x = np.mgrid[:64, :64] - 31.5
    angle = np.degrees(np.arctan2(y * 2.0, x * 1.5)) % 360
    labels = np.zeros((1, 1, 64, 64), np.uint8)
    gap = (angle >= angle_from) & (angle < angle_to)
    labels[0, 0][disc(outer) & ~gap] = 2
    labels[0, 0][disc(inner)] = 1
    return labels


def test_a_gap_of_the_ring_is_closed_as_thick_as_the_rest():
    whole, broken = ring(), ring(20, 70)
    closed = close_rings(broken, 1, 2)
    dice = 2 * ((closed == 2) & (whole == 2)).sum() / ((closed == 2).sum() + (whole == 2).sum())
    assert dice > 0.97 > 2 * (broken == 2).sum() / ((broken == 2).sum() + (whole == 2).sum())
    assert ((closed == 1) == (whole == 1)).all()
    rim = ndimage.binary_dilation(closed[0, 0] == 1) & (closed[0, 0] != 1)
    assert (closed[0, 0][rim] == 2).all()


def test_holes_become_muscle_and_a_whole_ring_stays():
    whole = ring()
    np.testing.assert_array_equal(close_rings(whole, 1, 2), whole)
    holed = whole.copy()
    holed[0, 0, 31:33, 20] = 0  # between LV and Myo
    holed[0, 0, 22, 31:33] = 0
    np.testing.assert_array_equal(close_rings(holed, 1, 2) > 0, whole > 0)


@pytest.mark.parametrize('labels', [ring(0, 200), np.where(ring() == 2, 0, ring())])
def test_a_ring_that_is_mostly_open_stays(labels):
    np.testing.assert_array_equal(close_rings(labels.astype(np.uint8), 1, 2), labels)


def test_another_structure_in_the_gap_stays():
    broken = ring(20, 70)
    broken[0, 0][(broken[0, 0] == 0) & ~disc(26)] = 3
    closed = close_rings(broken, 1, 2)
    assert ((closed == 3) == (broken == 3)).all()


def test_a_wrong_frame_is_mended_from_its_neighbours():
    study = beating_heart(20, 2)
    broken = study.labels.copy()
    broken[6, 1] = 0
    broken[12, 0] = np.roll(broken[12, 0], 3, axis=1)
    smooth = smooth_phases(broken, study.present, 3)

    def dice(labels, place, label):
        a, b = labels[place] == label, study.labels[place] == label
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    for label in (1, 2, 3):
        assert dice(smooth, (6, 1), label) > 0.8
        assert dice(smooth, (12, 0), label) > dice(broken, (12, 0), label)


def test_smoothing_hardly_changes_what_beats_smoothly():
    study = beating_heart(20, 1)
    smooth = smooth_phases(study.labels, study.present, 3)
    for label in (1, 2, 3):
        a, b = smooth == label, study.labels == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.98
    areas = [(labels == 1).sum((1, 2, 3)) for labels in (smooth, study.labels)]
    np.testing.assert_allclose(*areas, rtol=0.04)


def test_absent_frames_neither_count_nor_change():
    study = beating_heart(20, 1)
    labels, present = study.labels.copy(), study.present.copy()
    present[4, 0], labels[4, 0] = False, 0
    smooth = smooth_phases(labels, present, 3)
    assert not smooth[4].any()
    areas = (smooth[[3, 5], 0] == 1).sum((1, 2)), (study.labels[[3, 5], 0] == 1).sum((1, 2))
    np.testing.assert_allclose(*areas, rtol=0.1)


def test_few_phases_are_not_smoothed():
    study = beating_heart(4, 1)
    np.testing.assert_array_equal(smooth_phases(study.labels, study.present, 3), study.labels)


@pytest.mark.parametrize('name', sorted(CORRECTIONS))
def test_corrections_of_studies(name):
    """Each leaves a good study nearly as it is, and one without the classes it knows alone."""
    study = beating_heart(20, 2)
    changed = (CORRECTIONS[name](study) != study.labels).mean()
    assert changed < 0.01
    other = beating_heart(2, 2, classes=('a', 'b', 'c'))
    np.testing.assert_array_equal(CORRECTIONS[name](other), other.labels)
    empty = relabelled(study, np.zeros_like(study.labels))
    assert not CORRECTIONS[name](empty).any()
