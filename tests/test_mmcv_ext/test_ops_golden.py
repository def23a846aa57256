"""Our ops against compiled mmcv's, recorded by make_golden.py."""

from __future__ import annotations

import numpy as np
import pytest
from op_cases import CASES, GOLDEN


@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def test_every_recorded_case_is_replayed(golden):
    assert {key.split('/')[0] for key in golden} == set(CASES)


@pytest.mark.parametrize('case', CASES)
def test_same_as_compiled(case, golden):
    results = CASES[case]()
    expected = {
        key.split('/')[1]: array for key, array in golden.items() if key.split('/')[0] == case
    }
    assert set(results) == set(expected)
    for name, array in expected.items():
        assert results[name].dtype == array.dtype
        # Indices and group sizes exactly. Floats are float32 sums of at most 84 products of order
        # 1 (deform_conv's weight gradients; other ops have fewer), added in another order.
        tolerance = dict(rtol=0, atol=0) if array.dtype.kind == 'i' else dict(rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(results[name], array, **tolerance, err_msg=name)
