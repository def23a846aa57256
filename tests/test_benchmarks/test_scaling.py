"""The model of a cluster against closed forms."""

from __future__ import annotations

import math

import pytest

from swin_ext.benchmarks.scaling import Cluster

CLUSTER = Cluster(step=0.2, jitter=0.01, gradient_bytes=200e6, latency=0.0)


def test_one_gpu_sends_nothing_and_waits_for_nobody():
    assert CLUSTER.all_reduce(1) == 0 and CLUSTER.seconds(1) == 0.2 and CLUSTER.efficiency(1) == 1


def test_rings_send_nearly_twice_the_bytes():
    assert CLUSTER.all_reduce(8) == pytest.approx(2 * 7 / 8 * 200e6 / 200e9)
    between = CLUSTER.all_reduce(1024) - CLUSTER.all_reduce(8)
    assert between == pytest.approx(2 * 127 / 128 * 200e6 / 25e9)


def test_what_is_sent_during_the_backward_pass_costs_nothing():
    assert CLUSTER.seconds(64) == pytest.approx(0.2 + 0.01 * math.sqrt(2 * math.log(64)))
    slow = Cluster(step=0.2, jitter=0.0, gradient_bytes=200e6, net_bandwidth=1e9, latency=0.0)
    assert slow.seconds(64) == pytest.approx(0.2 + slow.all_reduce(64) - 0.1)


def test_messages_go_by_trees():
    cluster = Cluster(step=1.0, jitter=0.0, gradient_bytes=0.0, latency=1e-3, messages=2)
    assert cluster.all_reduce(8) == 0
    assert cluster.all_reduce(64) == pytest.approx(2 * 3 * 2e-3)
