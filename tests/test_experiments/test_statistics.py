"""Intervals and tests against closed forms, enumeration and SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from swin_ext.experiments.statistics import bootstrap_interval, holm, paired_test

nan = math.nan


def mean_of(values):
    values = np.asarray(values, float)
    return lambda weights: weights @ values / weights.sum(1)


@pytest.mark.parametrize('number', [8, 40, 200])
def test_interval_of_a_mean_is_scipys(number):
    values = np.random.default_rng(number).normal(0.8, 0.1, number)
    rng = np.random.default_rng(0)
    found = bootstrap_interval([mean_of(values)], number, rng, 20_000)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(1)
    ).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.03 * values.std() / math.sqrt(number) * 4)


def test_patients_are_drawn_for_all_seeds_together():
    """Variance of a crossed bootstrap: that of patients does not fall with the number of seeds."""
    patients = np.random.default_rng(0).normal(0, 1, 100)
    rng = np.random.default_rng(1)
    low, high = bootstrap_interval([mean_of(patients)] * 5, 100, rng, 20_000)
    assert high - low == pytest.approx(2 * 1.96 * patients.std() / math.sqrt(100), rel=0.05)


def test_seeds_add_their_variance():
    """Patients that are all alike: the variance is that of the mean of four seeds."""
    seeds = np.array([0.0, 1.0, 2.0, 3.0])
    figures = [mean_of(np.full(50, seed)) for seed in seeds]
    low, high = bootstrap_interval(figures, 50, np.random.default_rng(0), 20_000)
    means = [np.mean(drawn) for drawn in itertools.product(seeds, repeat=4)]
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.26)


def test_undefined_figures_do_not_count():
    one = mean_of([0.5, 0.7])
    undefined = lambda weights: np.full(len(weights), nan)  # noqa: E731
    bounds = bootstrap_interval([one, undefined], 2, np.random.default_rng(0))
    assert bounds == pytest.approx((0.5, 0.7))
    assert all(map(math.isnan, bootstrap_interval([undefined], 2, np.random.default_rng(0))))


@pytest.mark.parametrize('number', [2, 5, 6, 9])
@pytest.mark.parametrize('shift', [0.0, 0.05, 0.2])
def test_paired_test_is_an_enumeration_of_signs(number, shift):
    rng = np.random.default_rng(number)
    first = rng.normal(0.7, 0.1, number)
    second = first + rng.normal(shift, 0.05, number)
    difference = second - first
    means = [np.mean(signs * difference) for signs in itertools.product([-1, 1], repeat=number)]
    expected = np.mean(np.abs(means) >= abs(difference.mean()) * (1 - 1e-9))
    mean, p, count = paired_test(first, second)
    assert (mean, count) == (pytest.approx(difference.mean()), number)
    assert p == pytest.approx(expected)


def test_many_patients_agree_with_the_t_test():
    rng = np.random.default_rng(3)
    first = rng.normal(0.7, 0.1, 60)
    second = first + rng.normal(0.012, 0.04, 60)
    _, p, _ = paired_test(first, second)
    assert p == pytest.approx(scipy.stats.ttest_rel(first, second).pvalue, rel=0.15)


def test_patients_without_a_figure_are_left_out():
    mean, p, count = paired_test(np.array([0.1, nan, 0.3, 0.5]), np.array([0.2, 0.9, nan, 0.6]))
    assert (mean, p, count) == (pytest.approx(0.1), pytest.approx(0.5), 2)
    for first, second, number in (([0.5], [0.75], 1), ([nan], [1.0], 0)):
        mean, p, count = paired_test(np.array(first), np.array(second))
        assert math.isnan(p) and count == number
        assert mean == 0.25 if number else math.isnan(mean)


@pytest.mark.parametrize(
    'p, expected',
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # R: p.adjust(p, 'holm')
        ([0.5], [0.5]),
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.02, nan, 0.01], [0.02, nan, 0.02]),
        ([nan, nan], [nan, nan]),
        ([], []),
    ],
)
def test_holm(p, expected):
    assert holm(p) == pytest.approx(expected, nan_ok=True)
