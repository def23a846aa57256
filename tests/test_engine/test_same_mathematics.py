"""2 ranks x b images train as 1 x 2b: a Mask R-CNN, with what a config may say of several ranks.

Left out is what differs by design: samples are drawn in their order and no path is dropped.
"""

from __future__ import annotations

import pytest
import torch

from toy_mask_rcnn import model_config, train
from two_ranks import run_on_two_ranks

WITHOUT_MASK = dict(roi_head__mask_head__loss_mask__loss_weight=0.0)
# As many negative samples as positive ones, so that images and ranks differ in their number.
UNEVEN = dict(
    train_cfg__rpn__sampler=dict(num=512, neg_pos_ub=1),
    train_cfg__rcnn__sampler=dict(num=512, neg_pos_ub=1),
)
NORMED = dict(WITHOUT_MASK, neck__norm_cfg=dict(type='BN'))
ACCUMULATE = dict(optimizer=dict(type='SGD', lr=0.01), accumulative_counts=2)


def wrapped(**options):
    return dict(model_wrapper_cfg=options)


# Name: (changes of the model, images a step of each rank, iterations, what the run is told)
CASES = {
    'plain': ({}, 2, 5, {}),
    'without mask': (WITHOUT_MASK, 2, 5, {}),
    'uneven': (UNEVEN, 2, 1, {}),
    'uneven, synced': (UNEVEN, 2, 5, dict(sync_avg_factor=True)),
    'accumulated': (WITHOUT_MASK, 1, 10, dict(optim_wrapper=ACCUMULATE)),
    'SyncBN': (NORMED, 2, 5, dict(sync_bn='torch')),
    'BN': (NORMED, 2, 1, {}),
    'static graph': ({}, 2, 2, wrapped(static_graph=True)),
    'bucket view': ({}, 2, 2, wrapped(gradient_as_bucket_view=True, bucket_cap_mb=1)),
    'unused parameters': ({}, 2, 2, wrapped(find_unused_parameters=True)),
    'bf16': ({}, 2, 2, wrapped(gradient_compression='bf16')),
    'fp16': ({}, 2, 2, wrapped(gradient_compression='fp16')),
}


def train_ranks(rank, folder):
    found = {}
    for name, (changes, batch_size, steps, told) in CASES.items():
        model = model_config(**changes)
        found[name] = train(folder / name, model, batch_size, 'pytorch', steps, **told)
    return found


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    return run_on_two_ranks(train_ranks, tmp_path_factory.mktemp('same'))


@pytest.fixture(scope='module')
def single(tmp_path_factory):
    """The same batches in one process."""
    folder = tmp_path_factory.mktemp('single')
    changes = {'plain': {}, 'without mask': WITHOUT_MASK, 'uneven': UNEVEN, 'BN': NORMED}
    return {
        name: train(folder / name, model_config(**change), 4) for name, change in changes.items()
    }


def largest_difference(found: dict, expected: dict) -> float:
    assert found.keys() == expected.keys()
    return max(float((found[name] - expected[name]).abs().max()) for name in expected)


@pytest.mark.parametrize('name', CASES)
def test_ranks_have_the_same_parameters_after_each_step(ranks, name):
    first, second = (rank[name]['parameters'] for rank in ranks)
    assert len(first) == len(second) == CASES[name][2]
    for step, (one, other) in enumerate(zip(first, second)):
        assert all(torch.equal(one[key], other[key]) for key in one), step
    assert largest_difference(first[-1], first[0]) > 0 or len(first) == 1


def test_losses_have_the_mean_of_one_process(ranks, single):
    (expected, *_), (positives, *_) = single['plain']['losses'], single['plain']['positives']
    first, second = (rank['plain']['losses'][0] for rank in ranks)
    weights = [rank['plain']['positives'][0] for rank in ranks]
    assert sum(weights) == positives and weights[0] != weights[1]
    for key in expected.keys() - {'loss', 'loss_mask'}:
        assert (first[key] + second[key]) / 2 == pytest.approx(expected[key], abs=1e-6), key
    weighted = weights[0] * first['loss_mask'] + weights[1] * second['loss_mask']
    assert weighted / positives == pytest.approx(expected['loss_mask'], abs=1e-6)
    unweighted = (first['loss_mask'] + second['loss_mask']) / 2
    assert abs(unweighted - expected['loss_mask']) > 1e-5  # what sync_avg_factor is for


@pytest.mark.parametrize(
    ('name', 'alone'),
    [
        ('without mask', 'without mask'),
        ('accumulated', 'without mask'),
        ('uneven, synced', 'uneven'),
        ('SyncBN', 'BN'),
    ],
)
def test_gradients_are_those_of_one_process(ranks, single, name, alone):
    steps = list(zip(ranks[0][name]['gradients'], single[alone]['gradients']))
    assert len(steps) == 5
    for found, expected in steps:
        assert largest_difference(found, expected) <= 1e-5
        assert max(float(each.abs().max()) for each in expected.values()) > 0.01


def test_losses_are_those_of_one_process_if_synced(ranks, single):
    pairs = zip(*(rank['uneven, synced']['losses'] for rank in ranks))
    for (first, second), expected in zip(pairs, single['uneven']['losses']):
        for key, value in expected.items():
            assert (first[key] + second[key]) / 2 == pytest.approx(value, abs=1e-5), key


@pytest.mark.parametrize(('name', 'alone'), [('uneven', 'uneven'), ('BN', 'BN')])
def test_gradients_differ_unless_synced(ranks, single, name, alone):
    found, expected = ranks[0][name]['gradients'][0], single[alone]['gradients'][0]
    assert largest_difference(found, expected) > 1e-3


@pytest.mark.parametrize('name', ['static graph', 'bucket view', 'unused parameters'])
def test_options_change_no_bit(ranks, name):
    for step in range(2):
        expected = ranks[0]['plain']['parameters'][step]
        assert largest_difference(ranks[0][name]['parameters'][step], expected) == 0


@pytest.mark.parametrize(
    ('name', 'dtype', 'epsilon'), [('bf16', torch.bfloat16, 2**-8), ('fp16', torch.float16, 2**-11)]
)
def test_compressed_gradients_are_rounded(ranks, name, dtype, epsilon):
    found, expected = ranks[0][name]['gradients'][0], ranks[0]['plain']['gradients'][0]
    assert largest_difference(found, {k: v.to(dtype).float() for k, v in found.items()}) == 0
    assert largest_difference(expected, {k: v.to(dtype).float() for k, v in expected.items()}) > 0
    flat, exact = (torch.cat([g.flatten() for g in each.values()]) for each in (found, expected))
    assert 0 < (flat - exact).norm() <= 2 * epsilon * exact.norm()
