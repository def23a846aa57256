import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from swin_ext.visualization.colours import OKABE_ITO, PALETTE, colours_of


def distances(colours):
    rgb = np.array([to_rgb(colour) for colour in colours])
    between = np.linalg.norm(rgb[:, None] - rgb[None], axis=-1)
    return between[~np.eye(len(rgb), dtype=bool)]


def test_first_colours_are_distinct():
    assert distances(OKABE_ITO).min() > 0.2


def test_no_two_colours_are_alike():
    assert distances(PALETTE).min() > 0.03


def test_known_structures_keep_their_colours():
    for names in itertools.permutations(['LV', 'Myo', 'RV', 'scar']):
        colours = colours_of(names)
        assert list(colours) == list(names)
        assert [colours[name] for name in ('LV', 'Myo', 'RV')] == list(OKABE_ITO[:3])
        assert colours['scar'] not in OKABE_ITO[:3]


@pytest.mark.parametrize('num', [1, 5, 7, 8, 69, len(PALETTE)])
def test_colours_belong_to_names(num):
    names = [f'class {number}' for number in range(num)]
    colours = colours_of(names)
    assert len(set(colours.values())) == num
    assert colours_of(names[::-1]) == colours
    assert num > 7 or set(colours.values()) <= set(OKABE_ITO)


def test_beyond_the_palette_colours_repeat():
    colours = colours_of(map(str, range(3 * len(PALETTE))))
    assert len(colours) == 3 * len(PALETTE)
    assert set(colours.values()) == set(PALETTE)


@pytest.mark.parametrize('names', [[], ['', ' '], ['\u5fc3', '\ud800']])
def test_names_of_any_kind(names):
    assert list(colours_of(names)) == names
