"""Contour polygons as masks."""

from __future__ import annotations

import numpy as np
import pytest
from cmr_files import HEIGHT, WIDTH, circle

from swin_ext.conversion.contours import fill_contour, fill_ring, polygon_area
from swin_ext.conversion.study import ConversionError


@pytest.mark.parametrize('y, x, radius', [(18, 20, 4), (20, 28, 8.5), (17.5, 22.5, 12)])
def test_masks_agree_with_scikit_image_but_for_the_outline(y, x, radius):
    draw = pytest.importorskip('skimage.draw')
    polygon = circle(y, x, radius)
    mask = fill_contour(polygon, HEIGHT, WIDTH)
    inside = draw.polygon2mask((HEIGHT, WIDTH), polygon[:, ::-1])
    rows, columns = np.nonzero(mask != inside)
    # Where both differ, the outline is nearer than the diagonal of a pixel.
    distance = np.hypot(rows[:, None] - polygon[:, 1], columns[:, None] - polygon[:, 0]).min(1)
    assert len(distance) and distance.max() <= np.sqrt(2)


def test_masks_of_whole_pixels_are_exact():
    mask = fill_contour(np.array([[2, 1], [5, 1], [5, 3], [2, 3.0]]), 6, 8)
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:6] = True  # with the outline
    np.testing.assert_array_equal(mask, expected)


def test_points_belong_to_the_pixel_they_lie_in():
    whole = np.array([[2, 1], [5, 1], [5, 3], [2, 3.0]])
    np.testing.assert_array_equal(fill_contour(whole + 0.5, 6, 8), fill_contour(whole, 6, 8))


def test_ring_is_the_outer_contour_without_the_inner_one():
    outer, inner = (fill_contour(circle(18, 20, radius), HEIGHT, WIDTH) for radius in (10, 6))
    ring = fill_ring(inner, outer, 'o.txt')
    np.testing.assert_array_equal(ring ^ inner, outer)
    assert not ring[18, 20]


def test_ring_needs_contours_of_the_same_frame():
    outer = fill_contour(circle(18, 14, 10), HEIGHT, WIDTH)
    inner = fill_contour(circle(18, 26, 6), HEIGHT, WIDTH)
    with pytest.raises(ConversionError, match='outside the outer'):
        fill_ring(inner, outer, 'o.txt')


def test_area_is_that_of_the_polygon():
    assert polygon_area(circle(18, 20, 10, 2000)) == pytest.approx(np.pi * 100, rel=0.01)
    assert polygon_area(np.array([[0, 0], [4, 0], [4, 3.0]])) == 6
