"""Planes, distances and grids, against numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest

from swin_ext.study import geometry


@pytest.mark.parametrize(
    'orientation, normal, name',
    [
        ([1, 0, 0, 0, 1, 0], (0, 0, 1), 'axial'),
        ([1, 0, 0, 0, -1, 0], (0, 0, -1), 'axial'),
        ([1, 0, 0, 0, 0, -1], (0, 1, 0), 'coronal'),
        ([0, 1, 0, 0, 0, -1], (-1, 0, 0), 'sagittal'),
        ([0.6, 0.8, 0, 0, 0, -1], (-0.8, 0.6, 0), 'oblique'),
        # A real short axis.
        (
            [0.712221, 0.701112, -0.0343949, -0.307716, 0.267798, -0.913015],
            (-0.6309, 0.6609, 0.4065),
            'oblique',
        ),
    ],
)
def test_normals_and_names_of_planes(orientation, normal, name):
    found = geometry.plane_normal(np.array(orientation, float))
    np.testing.assert_allclose(found, normal, atol=1e-4)
    assert geometry.plane_name(found) == geometry.plane_name(-found) == name


@pytest.mark.parametrize(
    'orientation',
    [
        [1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1, 0],
        [2, 0, 0, 0, 2, 0],
        [1, 0, 0, 0.2, 0.98, 0],
        [1, 0, 0, 0, np.nan, 0],
    ],
)
def test_directions_that_are_none(orientation):
    with pytest.raises(ValueError, match='perpendicular unit vectors'):
        geometry.plane_normal(np.array(orientation, float))


@pytest.mark.parametrize(
    'third_column, distance',
    [
        ((0, 0, 8), 8),
        ((0, 0, -8), 8),
        ((4, 0, 8), 8),  # sheared: its length is 8.94
        ((3, -4, 8), 8),
        ((0, 0, 0.5), 0.5),
    ],
)
def test_slice_distance_is_along_the_normal(third_column, distance):
    affine = np.diag([1.25, 1.5, 1, 1.0])
    affine[:3, 2] = third_column
    assert geometry.slice_distance(affine) == pytest.approx(distance)


def test_slice_distance_of_a_turned_sheared_grid():
    turn = np.array([[0.6, -0.8, 0], [0.8, 0.6, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[1.2, 0, 2], [0, 1.2, 0], [0, 0, 7]])
    assert geometry.slice_distance(affine) == pytest.approx(7)


@pytest.mark.parametrize(
    'positions, expected, distance, numbers',
    [
        ([0, 8, 16], None, 8, (0, 1, 2)),
        ([0, 8, 24], None, 8, (0, 1, 3)),
        ([-24, -8, 0], None, 8, (0, 2, 3)),
        ([0, 7.96, 16.03, 24.0], None, 8, (0, 1, 2, 3)),
        ([0, 16, 32], 8, 16, (0, 1, 2)),  # positions go before what a tag says
        ([0, 16, 40], 8, 8, (0, 2, 5)),  # two gaps whose common measure the tag says
        ([0, 0.6, 1.2], None, 0.6, (0, 1, 2)),
        ([0, 8], None, 8, (0, 1)),
    ],
)
def test_numbers_on_a_grid(positions, expected, distance, numbers):
    steps = geometry.regular_steps(positions, expected)
    assert steps.distance == pytest.approx(distance, rel=1e-3) and steps.numbers == numbers
    assert steps.missing == numbers[-1] + 1 - len(numbers)


@pytest.mark.parametrize(
    'positions', [[0, 8, 19], [0, 0.5, 8, 16], [0, 8, 80], [0, 3, 8, 10], [0, 16, 40]]
)
def test_positions_that_are_on_no_grid(positions):
    assert geometry.regular_steps(positions) is None


@pytest.mark.parametrize(
    'spacing, distance, plausible',
    [
        ((1.25, 1.25), 8, True),
        ((0.1, 0.1), 1, True),  # a mouse
        ((1.25, 1.25), None, True),
        ((1500, 1500), 8000, False),
        ((1.5e-3, 1.5e-3), None, False),
        ((1.25, 1250), 8, False),
        ((1.25, 1.25), 800, False),
    ],
)
def test_plausible_sizes(spacing, distance, plausible):
    assert geometry.is_plausible(spacing, distance) == plausible


def test_positions_within_rounding_are_one():
    assert geometry.distinct_positions([8.004, 0, 8, -0.003]) == [-0.003, 8]
