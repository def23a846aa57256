import math

import pytest

from swin_ext.coco.spacing import is_length, spacing_of


@pytest.mark.parametrize('value', [1, 0.5, 1e-300])
def test_lengths(value):
    assert is_length(value)


@pytest.mark.parametrize('value', [0, -1, math.nan, math.inf, True, '1', None, [1]])
def test_what_is_no_length(value):
    assert not is_length(value)


@pytest.mark.parametrize('third', [8, -1, 'thick'])
def test_a_third_number_is_left_out_unless_it_matters(third):
    image = dict(spacing_mm=[1.2, 1.4, third])
    assert spacing_of(image) == (1.2, 1.4)
    assert spacing_of(image, allow_third=False) is None


@pytest.mark.parametrize('value', [True, [True, 1.2], dict(rows=1.2), 'ab', {}, []])
def test_impossible_values_are_no_spacing(value):
    assert spacing_of(dict(spacing_mm=value)) is None
