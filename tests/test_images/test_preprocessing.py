"""Grey levels from pixels, and how that is stored and read back."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from swin_ext.images.preprocessing import Preprocessing, PreprocessingError
from swin_ext.utils.errors import UserError

RNG = np.random.default_rng(0)
STUDY = RNG.gamma(2, 200, (5, 24, 32))
GRID = [
    dict(window=window, percentiles=percentiles, channels=channels, rounding=rounding)
    for window, percentiles, channels, rounding in itertools.product(
        (None, 'slice', 'study'),
        ((0.5, 99.5), (1, 99)),
        ('repeat', 'slices', 'frames'),
        ('nearest', None),
    )
]


@pytest.mark.parametrize('values', GRID)
def test_it_is_equal_after_json(values):
    one = Preprocessing(**values)
    other = Preprocessing.from_dict(json.loads(json.dumps(one.to_dict())))
    assert other == one and hash(other) == hash(one)
    assert one.to_dict()['version'] == 1
    assert sum(Preprocessing(**others) == one for others in GRID) == 1


@pytest.mark.parametrize('dtype', [np.float32, np.float64, np.uint16, np.int16])
@pytest.mark.parametrize('percentiles', [(0.5, 99.5), (1, 99), (0, 100), (10, 60)])
@pytest.mark.parametrize('window', ['slice', 'study'])
def test_grey_levels_are_those_of_numpy_s_percentiles(dtype, percentiles, window):
    study = STUDY.astype(dtype)
    low, high = np.percentile(study[2] if window == 'slice' else study, percentiles)
    expected = 255 * np.clip((study[2].astype(float) - low) / (high - low), 0, 1)
    values = dict(window=window, percentiles=percentiles)
    found = Preprocessing(**values).grey_levels(study[2], study)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 0.5 + 1e-4
    exact = Preprocessing(**values, rounding=None).grey_levels(study[2], study)
    assert exact.dtype == np.float32 and np.allclose(exact, expected, atol=1e-4)
    limits = Preprocessing(**values).limits(study[2] if window == 'slice' else study)
    assert np.array_equal(Preprocessing(**values).grey_levels(study[2], limits=limits), found)


@pytest.mark.parametrize('rounding, dtype', [('nearest', np.uint8), (None, np.float32)])
def test_8_bit_grey_levels(rounding, dtype):
    grey = RNG.integers(20, 200, (8, 9)).astype(np.uint8)
    for values in (dict(), dict(window='slice', keep_8_bit=True)):
        kept = Preprocessing(**values, rounding=rounding).grey_levels(grey, is_display=True)
        assert kept.dtype == dtype and np.array_equal(kept, grey)
    windowed = Preprocessing(window='slice').grey_levels(grey, is_display=True)
    assert windowed.min() == 0 and windowed.max() == 255
    # 16-bit values below 256 are no grey levels.
    beside = Preprocessing(window='slice', keep_8_bit=True).grey_levels(grey.astype(np.uint16))
    assert np.array_equal(beside, windowed)
    with pytest.raises(PreprocessingError, match='no 8-bit grey levels'):
        Preprocessing().grey_levels(grey.astype(np.uint16))


@pytest.mark.parametrize('value', [-3e38, 0, 7, 3e38])
def test_images_without_contrast_and_extreme_ones(value):
    constant = np.full((4, 4), value, np.float32)
    assert not Preprocessing(window='slice').grey_levels(constant).any()
    constant[0, 0] = -1e38
    levels = Preprocessing(window='slice', rounding=None).grey_levels(constant)
    assert np.isfinite(levels).all() and levels.min() == 0 and levels.max() == 255


def test_study_window_without_a_study():
    with pytest.raises(ValueError, match='needs the pixels of the study'):
        Preprocessing(window='study').grey_levels(STUDY[0])


def test_what_leads_from_the_source_to_the_network():
    stored = Preprocessing(window='study', percentiles=(2, 98), keep_8_bit=True)
    loader = Preprocessing(channels='slices', rounding=None)
    both = loader.after(stored)
    assert both == Preprocessing(
        window='study', percentiles=(2, 98), keep_8_bit=True, channels='slices', rounding=None
    )
    assert stored.after(Preprocessing()) == stored
    with pytest.raises(PreprocessingError, match='windowed again'):
        stored.after(stored)


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(window='auto'), "window='auto' must be one of"),
        (dict(window=['slice']), 'window=.* must be one of'),
        (dict(channels=None), 'channels=None must be one of'),
        (dict(rounding='floor'), "rounding='floor' must be one of"),
        (dict(bit_depth=16), 'bit_depth=16 must be one of'),
        (dict(bit_depth=8.0), 'bit_depth=8.0 must be one of'),
        (dict(exif='ignore'), "exif='ignore' must be one of"),
        (dict(keep_8_bit=1), 'keep_8_bit=1 must be one of'),
        (dict(percentiles=[99, 1]), 'two rising numbers'),
        (dict(percentiles=[1, float('nan')]), 'two rising numbers'),
        (dict(percentiles=['1', '99']), 'two rising numbers'),
        (dict(percentiles=5), 'two rising numbers'),
        (dict(percentiles=[True, 99]), 'two rising numbers'),
        (dict(version=2), 'version 2'),
        (dict(version=None), 'version None'),
        (dict(version=True), 'version True'),
        (dict(gamma=2), "unknown \\['gamma'\\]"),
    ],
)
def test_impossible_content(change, message):
    content = {**Preprocessing().to_dict(), **change}
    with pytest.raises(PreprocessingError, match=message) as raised:
        Preprocessing.from_dict(content)
    assert isinstance(raised.value, UserError) and isinstance(raised.value, ValueError)


def test_content_that_lacks_a_key_or_is_no_dictionary():
    content = Preprocessing().to_dict()
    del content['exif']
    with pytest.raises(PreprocessingError, match="lacks \\['exif'\\]"):
        Preprocessing.from_dict(content)
    for other in (None, [], 'png8'):
        with pytest.raises(PreprocessingError, match='must be a dictionary'):
            Preprocessing.from_dict(other)
