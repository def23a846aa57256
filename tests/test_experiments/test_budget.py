"""Budgets as users write them."""

from __future__ import annotations

import pytest

from swin_ext.experiments.budget import parse_budget
from swin_ext.experiments.errors import ExperimentError


@pytest.mark.parametrize(
    'text, seconds, iterations',
    [
        ('90s', 90, None),
        ('20min', 1200, None),
        ('1.5h', 5400, None),
        (' 2 h ', 7200, None),
        ('0.5min', 30, None),
        ('500it', None, 500),
    ],
)
@pytest.mark.parametrize('clock', ['wall', 'cpu'])
def test_what_counts(text, seconds, iterations, clock):
    budget = parse_budget(text, clock)
    assert (budget.seconds, budget.iterations, budget.clock) == (seconds, iterations, clock)
    given = dict(seconds=seconds) if iterations is None else dict(iterations=iterations)
    assert budget.of_hook() == dict(given, clock=clock)


@pytest.mark.parametrize(
    'text', ['20 parsecs', '', 'min', '20', '-5min', '0s', '0it', '1.5it', '5m', '1e3s', '٣min2']
)
def test_others_are_refused(text):
    with pytest.raises(ExperimentError, match='give a time, as 90s, 20min or 1.5h, or a number'):
        parse_budget(text, 'wall')
