import numpy as np
import pytest
from pycocotools import mask as mask_utils

from swin_ext.coco.rle_check import BATCH_SIZE, covered_pixels


def encode_random(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        height, width = rng.integers(1, 60, 2)
        mask = rng.random((height, width)) < rng.choice([0, 0.01, 0.5, 0.99, 1])
        rle = mask_utils.encode(np.asfortranarray(mask, np.uint8))
        yield rle['counts'], height * width


def test_runs_of_whole_masks_cover_the_image():
    counts, pixels = zip(*encode_random(BATCH_SIZE + 500))
    assert np.array_equal(covered_pixels(list(counts)), pixels)


def test_runs_of_a_large_mask_cover_the_image():
    mask = np.zeros((5000, 3000), np.uint8, order='F')
    mask[4000:, 2999] = 1
    assert covered_pixels([mask_utils.encode(mask)['counts']]) == [mask.size]


def test_truncated_masks_do_not():
    counts, pixels = zip(*encode_random(500))
    assert not (covered_pixels([text[:-1] for text in counts]) == pixels).any()


@pytest.mark.parametrize(
    'text', [b'', b'zzzz', b'llll', b'\x00', b'[' * 50, b'o' * 50, b'o', b'\xff']
)
def test_what_is_no_encoding(text):
    whole, pixels = next(encode_random(1))
    assert covered_pixels([whole, text, whole]).tolist() == [pixels, -1, pixels]


def test_no_masks():
    assert covered_pixels([]).shape == (0,)
