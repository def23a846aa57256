"""Contour polygons as masks."""

from __future__ import annotations

import numpy as np
import pytest
from cmr_files import HEIGHT, WIDTH, circle, write_contour

from swin_ext.conversion.contours import fill_contour, fill_ring, polygon_area, read_contour
from swin_ext.conversion.errors import ArgumentError, ConversionError


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def box(rows: tuple[int, int], columns: tuple[int, int]) -> np.ndarray:
    """Mask (6, 8) of the rows and columns from the first up to the last, without it."""
    mask = np.zeros((6, 8), bool)
    mask[slice(*rows), slice(*columns)] = True
    return mask


@pytest.mark.parametrize('turned', [False, True], ids=['clockwise', 'counter-clockwise'])
@pytest.mark.parametrize(
    'corners, rows, columns',
    [
        ((2, 1, 5, 3), (1, 3), (2, 5)),  # along the edges of pixels
        ((2.4, 1.4, 5.4, 3.4), (1, 3), (2, 5)),
        ((2.6, 1.6, 5.6, 3.6), (2, 4), (3, 6)),
        # Through centres: the left and upper outline is inside, the others are not.
        ((2.5, 1.5, 5.5, 3.5), (1, 3), (2, 5)),
        ((0, 0, 8, 6), (0, 6), (0, 8)),
    ],
)
def test_rectangles_take_the_pixels_whose_centre_is_inside(corners, rows, columns, turned):
    polygon = rectangle(*corners)[:: -1 if turned else 1]
    np.testing.assert_array_equal(fill_contour(polygon, 6, 8), box(rows, columns))


def test_neighbours_share_no_pixel_and_leave_no_gap():
    left, right = rectangle(1, 1, 3.5, 4), rectangle(3.5, 1, 6, 4)
    masks = [fill_contour(polygon, 6, 8).astype(int) for polygon in (left, right)]
    np.testing.assert_array_equal(sum(masks), box((1, 4), (1, 6)))


@pytest.mark.parametrize('y, x, radius', [(18, 20, 4), (20, 28, 8.5), (17.5, 22.5, 12)])
def test_circles_agree_with_matplotlib(y, x, radius):
    from matplotlib.path import Path

    polygon = circle(y, x, radius) + [0.013, 0.007]  # no centre lies on the outline
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    centres = np.stack([columns.ravel(), rows.ravel()], 1) + 0.5
    closed = np.concatenate([polygon, polygon[:1]])
    expected = Path(closed).contains_points(centres).reshape(HEIGHT, WIDTH)
    np.testing.assert_array_equal(fill_contour(polygon, HEIGHT, WIDTH), expected)


@pytest.mark.parametrize('seed', range(5))
def test_areas_of_circles_have_no_bias(seed):
    rng = np.random.default_rng(seed)
    circles = [
        (18 + rng.uniform(-1, 1), 24 + rng.uniform(-1, 1), rng.uniform(5, 15)) for _ in range(50)
    ]
    areas = [fill_contour(circle(*c, 200), HEIGHT, WIDTH).sum() for c in circles]
    assert sum(areas) == pytest.approx(sum(np.pi * radius**2 for *_, radius in circles), rel=0.005)


def test_what_a_contour_encloses_twice_is_inside():
    """Two rectangles that overlap, as one contour that crosses itself."""
    whole = np.concatenate([rectangle(1, 1, 5, 4), rectangle(3, 2, 7, 5)])
    assert fill_contour(whole, 6, 8)[3, 4]


def test_figure_of_eight_has_both_loops():
    eight = np.array([[1, 1], [7, 5], [7, 1], [1, 5.0]])
    mask = fill_contour(eight, 6, 8)
    assert mask[3, 1] and mask[3, 6] and not mask[1, 4] and not mask[5, 4]


def test_contour_smaller_than_a_pixel_is_not_lost():
    mask = fill_contour(rectangle(3.6, 2.6, 3.9, 2.9), 6, 8)
    np.testing.assert_array_equal(mask, box((2, 3), (3, 4)))


def test_line_encloses_nothing(tmp_path):
    path = write_contour(tmp_path / 'line.txt', np.array([[1, 1], [2, 2], [5, 5.0]]))
    with pytest.raises(ConversionError, match='on one line'):
        read_contour(path, 6, 8)


def test_touched_masks_have_the_outline():
    polygon = rectangle(2, 1, 5, 3)
    expected = box((1, 4), (2, 6))
    np.testing.assert_array_equal(fill_contour(polygon, 6, 8, 'touched'), expected)
    # A point belongs to the pixel that it lies in.
    np.testing.assert_array_equal(fill_contour(polygon + 0.5, 6, 8, 'touched'), expected)


def test_unknown_fill_is_refused():
    with pytest.raises(ArgumentError, match="'edges' must be one of"):
        fill_contour(rectangle(2, 1, 5, 3), 6, 8, 'edges')


def test_area_of_a_ring_is_that_between_its_circles():
    outer, inner = (
        fill_contour(circle(18.3, 20.6, radius, 200), HEIGHT, WIDTH) for radius in (14, 9)
    )
    assert fill_ring(inner, outer, 'o.txt').sum() == pytest.approx(np.pi * (14**2 - 9**2), rel=0.02)


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


SQUARE = '10 10\n20 10\n20 20\n10 20\n'


@pytest.mark.parametrize(
    'text',
    [
        SQUARE * 2,
        '10 10\n20 20\n20 10\n10 20\n',
        SQUARE + '\n30 30\n35 30\n35 35\n',
        SQUARE + '30 35\n35 35\n35 30\n30 30\n',
    ],
    ids=['twice round', 'crossed', 'two contours', 'two of opposite turn'],
)
def test_contours_that_enclose_what_their_area_does_not_say_are_refused(tmp_path, text):
    """ED and ES are told by areas, and volumes come from masks."""
    (tmp_path / 'a.txt').write_text(text)
    with pytest.raises(ConversionError, match=r'encloses \d+ px, but has an area of \d+ px'):
        read_contour(tmp_path / 'a.txt', HEIGHT, WIDTH)


@pytest.mark.parametrize(
    'text, encoding',
    [
        (SQUARE, 'utf-8'),
        (SQUARE, 'utf-8-sig'),
        (SQUARE + '10 10\n', 'utf-8'),
        (SQUARE.replace('\n', '\r\n'), 'utf-8'),
    ],
)
def test_ways_to_write_the_same_contour(tmp_path, text, encoding):
    (tmp_path / 'a.txt').write_bytes(text.encode(encoding))
    polygon = read_contour(tmp_path / 'a.txt', HEIGHT, WIDTH)
    assert fill_contour(polygon, HEIGHT, WIDTH).sum() == polygon_area(polygon) == 100


@pytest.mark.parametrize('seed', range(3))
def test_contours_that_cross_a_little_are_read(tmp_path, seed):
    """As experts draw them: with a small loop where the outline closes."""
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi * 1.02, 60)
    radius = 12 + rng.normal(0, 0.2, 60)
    points = np.stack([28 + radius * np.cos(angle), 18 + radius * np.sin(angle)], 1)
    np.savetxt(tmp_path / 'a.txt', points)
    polygon = read_contour(tmp_path / 'a.txt', HEIGHT, WIDTH)
    assert fill_contour(polygon, HEIGHT, WIDTH).sum() == pytest.approx(np.pi * 144, rel=0.05)
