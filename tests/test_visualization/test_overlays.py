import io

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage

from swin_ext.visualization.overlays import Tile, describe, draw_sheet, draw_tile, overlap

LV, MYO = 1, 2
GREY = 90  # every pixel of every test image
ZOOM = 8


def box_mask(left, top, right, bottom, shape=(40, 48)):
    mask = np.zeros(shape, bool)
    mask[top:bottom, left:right] = True
    return mask


def draw(image, truth, predictions, colours, zoom=ZOOM):
    """The tile alone, without margins: each image pixel is zoom x zoom pixels, RGB."""
    height, width = image.shape
    figure = Figure(figsize=(width * zoom / 100, height * zoom / 100), dpi=100)
    draw_tile(figure.add_axes([0, 0, 1, 1]), image, truth, predictions, colours)
    return pixels_of(figure).astype(int)


def pixels_of(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def at_pixel_centres(tile):
    """Colours of the image pixels away from their edges, where the outlines run."""
    return tile[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM]


def test_the_predicted_mask_is_tinted_in_its_colour_and_nothing_else():
    image = np.random.default_rng(0).integers(0, 256, (40, 48)).astype(np.uint8)
    mask = box_mask(5, 8, 25, 30)
    tile = at_pixel_centres(draw(image, {}, {LV: (mask, 0.9)}, {LV: '#ff0000'}))
    inside, outside = box_mask(7, 10, 23, 28), ~box_mask(3, 6, 27, 32)
    red = 0.7 * image[inside] + 0.3 * 255
    np.testing.assert_allclose(tile[inside][:, 0], red, atol=1.01)
    np.testing.assert_allclose(tile[inside][:, 1], 0.7 * image[inside], atol=1.01)
    np.testing.assert_allclose(tile[outside], np.repeat(image[outside][:, None], 3, 1), atol=1.01)


def test_the_hole_of_a_ring_is_not_tinted():
    image = np.full((40, 48), GREY, np.uint8)
    ring = box_mask(5, 5, 35, 35) & ~box_mask(12, 12, 28, 28)
    tile = at_pixel_centres(draw(image, {}, {MYO: (ring, 0.9)}, {MYO: '#00ff00'}))
    assert (tile[box_mask(15, 15, 25, 25)] == GREY).all()
    assert tile[8, 20, 1] > GREY > tile[8, 20, 0]


def along_the_edge(mask, distance):
    """Where the enlarged tile is at most ``distance`` of its pixels off the edge of the mask."""
    enlarged = np.kron(mask, np.ones((ZOOM, ZOOM), np.uint8))
    return ndimage.binary_dilation(enlarged, iterations=distance) & ~ndimage.binary_erosion(
        enlarged, iterations=distance, border_value=0
    )


def test_the_ground_truth_is_a_dashed_white_outline():
    truth = box_mask(14, 10, 34, 30)
    tile = draw(np.zeros((40, 48), np.uint8), {LV: truth}, {}, {LV: '#ff0000'})
    white = tile.min(-1) > 100
    assert not white[~along_the_edge(truth, 4)].any()
    top_edge = white[10 * ZOOM - 3 : 10 * ZOOM + 3, 16 * ZOOM : 32 * ZOOM].any(0)
    assert 0.3 < top_edge.mean() < 0.95


def test_a_prediction_has_an_outline_in_its_colour_closed_at_the_border():
    mask = box_mask(28, 0, 48, 40)  # touches three borders
    tile = draw(np.zeros((40, 48), np.uint8), {}, {LV: (mask, 1.0)}, {LV: '#0000ff'})
    outline = tile[..., 2] > 150  # the fill is 0.3 * 255
    assert not outline[~along_the_edge(mask, 4)].any()
    left = outline[:, 28 * ZOOM - 3 : 28 * ZOOM + 3].any(1)
    assert left.all() and outline[0, 30 * ZOOM : -ZOOM].all() and outline[ZOOM:-ZOOM, -1].all()


@pytest.mark.parametrize(
    'other, iou, dice',
    [
        (box_mask(10, 10, 30, 30), 1.0, 1.0),
        (box_mask(20, 10, 40, 30), 1 / 3, 0.5),
        (box_mask(10, 10, 20, 30), 0.5, 2 / 3),
        (box_mask(30, 10, 40, 30), 0.0, 0.0),
        (box_mask(0, 0, 0, 0), 0.0, 0.0),
    ],
)
def test_overlap(other, iou, dice):
    assert overlap(other, box_mask(10, 10, 30, 30)) == pytest.approx((iou, dice))


def test_captions():
    mask = box_mask(10, 10, 30, 30)
    truth = {LV: mask, MYO: mask}
    predictions = {LV: (box_mask(20, 10, 40, 30), 0.876), 3: (mask, 0.5)}
    captions = [describe(category, truth, predictions) for category in (LV, MYO, 3, 4)]
    assert captions == [
        'score 0.88  IoU 0.33  Dice 0.50',
        'missed',
        'score 0.50  not in the ground truth',
        None,
    ]


@pytest.mark.parametrize('num', [8, 69, 200])
def test_pictures_of_any_number_of_classes(num):
    """The image lists what it has, the largest first; the legend names what any image has."""
    names = {number: f'class {number}' for number in range(num)}
    small, large = box_mask(10, 10, 15, 15), box_mask(5, 5, 35, 35)
    tiles = [
        Tile('first', np.zeros((40, 48), np.uint8), {3: small}, {5: (large, 0.75)}),
        Tile('second', np.zeros((40, 48), np.uint8), {7: small}, {}),
    ]
    figure = draw_sheet(tiles, names, 0.5)
    captions = [text.get_text() for text in figure.texts if 'class' in text.get_text()]
    assert captions == [
        'class 5  score 0.75  not in the ground truth',
        'class 3  missed',
        'class 7  missed',
    ]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ['class 3', 'class 5', 'class 7', 'ground truth']


def test_an_image_of_very_many_classes_lists_the_largest():
    names = {number: f'class {number}' for number in range(30)}
    truth = {number: box_mask(0, 0, number + 1, 1) for number in range(30)}
    figure = draw_sheet([Tile('all', np.zeros((40, 48), np.uint8), truth, {})], names, 0.5)
    captions = [text.get_text() for text in figure.texts if 'missed' in text.get_text()]
    assert captions == [f'class {number}  missed' for number in range(29, 22, -1)]
    assert len(figure.legends[0].get_texts()) == 31
    figure.savefig(io.BytesIO(), format='png')  # the legend has a place of its own
    box = figure.legends[0].get_window_extent()
    images = [ax.get_window_extent().y1 for ax in figure.axes]
    assert box.y0 >= max(images)
