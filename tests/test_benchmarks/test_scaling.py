"""The model of many GPUs against closed forms, and the table of a measurement."""

from __future__ import annotations

import math

import pytest

from swin_ext.benchmarks.scaling import KINDS, row
from swin_ext.benchmarks.scaling_model import Cluster, all_reduce_seconds, step_seconds, table

FAST = Cluster('fast', 1e12, 1e12)
SLOW = Cluster('slow', 1e12, 1e9)


def bytes_of_a_ring(num_bytes: float, number: int) -> float:
    """What each member of a simulated ring sends: parts around it, once to sum, once to spread."""
    sent = [0.0] * number
    for _ in ('sum', 'spread'):
        for _ in range(number - 1):
            for member in range(number):
                sent[member] += num_bytes / number
    return max(sent)


@pytest.mark.parametrize('number', [2, 8, 16, 1024])
def test_a_ring_sends_what_a_simulated_one_sends(number):
    more, less = (all_reduce_seconds(size, number, SLOW) for size in (2e9, 1e9))
    bandwidth = 1e12 if number <= 8 else 1e9
    assert more - less == pytest.approx(bytes_of_a_ring(1e9, number) / bandwidth)


@pytest.mark.parametrize(
    ('number', 'expected'),
    [(1, 0), (8, 8.4e-6 + 14 * 3.4e-6), (64, 8.4e-6 + 14 * 9.6e-6 + 112 * 3.4e-6)],
)
def test_latency_of_nothing_to_send(number, expected):
    assert all_reduce_seconds(0, number, FAST) == pytest.approx(expected)
    assert all_reduce_seconds(0, number, FAST, buckets=3) == pytest.approx(3 * expected)


def test_a_step():
    assert step_seconds(0.3, 1e9, 1, SLOW, spread=0.1) == 0.3
    exchange = all_reduce_seconds(1e9, 16, SLOW, 10)
    assert step_seconds(0.3, 1e9, 16, SLOW, bucket_bytes=1e8) == pytest.approx(
        0.3 + exchange - 0.2  # more than hides behind the backward pass
    )
    hidden = all_reduce_seconds(1e9, 8, SLOW, 10)
    assert step_seconds(0.3, 1e9, 8, SLOW, bucket_bytes=1e8) == pytest.approx(0.3 + hidden / 10)
    waits = math.sqrt(2 * math.log(8)) * 0.1 * 0.3
    spread = step_seconds(0.3, 1e9, 8, SLOW, bucket_bytes=1e8, spread=0.1)
    assert spread == pytest.approx(0.3 + hidden / 10 + waits)
    four = step_seconds(0.3, 1e9, 8, SLOW, bucket_bytes=1e8, spread=0.1, accumulate=4)
    assert four == pytest.approx(1.2 + hidden / 10 + 2 * waits)


def test_tables():
    lines = table(0.15, 276e6, 0.05).splitlines()
    assert len(lines) == 2 + 2 * 8 and len({line.count('|') for line in lines}) == 1
    found = {kind: [0.1, 0.3, 0.2] for kind in KINDS}
    cells = row(4, 2, dict(found, bytes=1e6)).strip('| ').split(' | ')
    assert cells == ['4', '200.0', '200.0', '200.0', '1.5', '40.00', '0.41']
