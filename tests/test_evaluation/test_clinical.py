import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from swin_ext.evaluation.clinical import (
    MYOCARDIAL_DENSITY_G_PER_ML,
    bland_altman,
    clinical_indices,
    compare_masks,
    mean_of_defined,
    volume_ml,
)


def box(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


def surface(mask, spacing):
    """Positions of pixels of which a direct neighbour is outside, found one by one."""
    padded = np.pad(mask, 1)
    points = []
    for index in np.argwhere(padded):
        neighbours = [
            tuple(index + step * np.eye(mask.ndim, dtype=int)[axis])
            for axis in range(mask.ndim)
            for step in (-1, 1)
        ]
        if not all(padded[n] for n in neighbours):
            points.append(index * np.array(spacing))
    return np.array(points)


def distances_by_brute_force(pred, truth, spacing):
    between = cdist(surface(pred, spacing), surface(truth, spacing))
    there, back = between.min(1), between.min(0)
    return (
        max(np.percentile(there, 95), np.percentile(back, 95)),
        np.concatenate([there, back]).mean(),
    )


@pytest.mark.parametrize(
    'pred, truth, spacing, expected',
    [
        # A square of 10 x 10 moved by three columns: 70 pixels in common.
        (
            box((20, 20), slice(5, 15), slice(5, 15)),
            box((20, 20), slice(5, 15), slice(8, 18)),
            (1, 1),
            dict(dice=0.7, jaccard=70 / 130),
        ),
        # Two pixels, 3 rows of 2 mm and 4 columns of 0.5 mm apart.
        (
            box((9, 9), 1, 1),
            box((9, 9), 4, 5),
            (2.0, 0.5),
            dict(dice=0, jaccard=0, hd95=math.hypot(6, 2), assd=math.hypot(6, 2)),
        ),
        # A line and its parallel, 3 columns of 1.5 mm beside it.
        (
            box((9, 9), slice(0, 9), 2),
            box((9, 9), slice(0, 9), 5),
            (1, 1.5),
            dict(dice=0, jaccard=0, hd95=4.5, assd=4.5),
        ),
        # Two voxels in neighbouring slices, 8 mm thick with a gap of 2 mm.
        (
            box((3, 4, 4), 0, 1, 1),
            box((3, 4, 4), 1, 1, 1),
            (10.0, 1.4, 1.4),
            dict(dice=0, jaccard=0, hd95=10, assd=10),
        ),
        (
            box((6, 6), slice(0, 6), slice(0, 6)),
            box((6, 6), slice(0, 6), slice(0, 6)),
            (1, 1),
            dict(dice=1, jaccard=1, hd95=0, assd=0),
        ),
    ],
    ids=['square', 'pixels', 'lines', 'slices', 'whole image'],
)
def test_masks_compared_by_hand(pred, truth, spacing, expected):
    scores = compare_masks(pred, truth, spacing)
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_concentric_spheres_are_their_difference_in_radius_apart():
    z, y, x = np.mgrid[-26:27, -52:53, -52:53]
    spacing = (1.0, 0.5, 0.5)
    radius = np.sqrt(z**2 + (0.5 * y) ** 2 + (0.5 * x) ** 2)
    scores = compare_masks(radius <= 20, radius <= 25, spacing)
    assert scores['dice'] == pytest.approx(2 * 20**3 / (20**3 + 25**3), rel=5e-3)
    assert scores['jaccard'] == pytest.approx(20**3 / 25**3, rel=5e-3)
    assert scores['assd'] == pytest.approx(5, abs=0.3)
    assert scores['hd95'] == pytest.approx(5, abs=1)


RANDOM_MASKS = [
    ((24, 31), (1.0, 1.0), 0),
    ((24, 31), (1.4, 0.7), 1),
    ((24, 31), (1.4, 0.7), 2),
    ((6, 17, 13), (8.0, 1.25, 1.5), 3),
    ((6, 17, 13), (8.0, 1.25, 1.5), 4),
]


def random_masks(shape, seed):
    rng = np.random.default_rng(seed)
    return rng.random((2, *shape)) < rng.uniform(0.05, 0.6)


@pytest.mark.parametrize('shape, spacing, seed', RANDOM_MASKS, ids=str)
def test_random_masks_against_brute_force_and_monai(shape, spacing, seed):
    from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou

    pred, truth = random_masks(shape, seed)
    scores = compare_masks(pred, truth, spacing)
    hd95, assd = distances_by_brute_force(pred, truth, spacing)
    assert scores['hd95'] == pytest.approx(hd95, rel=1e-5)
    assert scores['assd'] == pytest.approx(assd, rel=1e-5)
    pair = [torch.from_numpy(mask[None, None]).float() for mask in (pred, truth)]
    assert scores['dice'] == pytest.approx(compute_dice(*pair).item(), rel=1e-6)
    assert scores['jaccard'] == pytest.approx(compute_iou(*pair).item(), rel=1e-6)
    assert scores['hd95'] == pytest.approx(
        compute_hausdorff_distance(
            *pair, include_background=True, percentile=95, spacing=list(spacing)
        ).item(),
        rel=1e-6,
    )


@pytest.mark.parametrize('shape, spacing, seed', RANDOM_MASKS, ids=str)
def test_random_masks_against_medpy(shape, spacing, seed):
    binary = pytest.importorskip('medpy.metric').binary
    pred, truth = random_masks(shape, seed)
    scores = compare_masks(pred, truth, spacing)
    assert scores['dice'] == pytest.approx(binary.dc(pred, truth), rel=1e-12)
    assert scores['jaccard'] == pytest.approx(binary.jc(pred, truth), rel=1e-12)
    # medpy's symmetric mean gives both directions the same weight, ours each surface point.
    weights = [len(surface(mask, spacing)) for mask in (pred, truth)]
    directed = binary.asd(pred, truth, spacing), binary.asd(truth, pred, spacing)
    assert scores['assd'] == pytest.approx(np.average(directed, weights=weights), rel=1e-5)


def test_absent_structures():
    empty, full = np.zeros((5, 5), bool), np.ones((5, 5), bool)
    assert all(math.isnan(value) for value in compare_masks(empty, empty, (1, 1)).values())
    for pair in ((empty, full), (full, empty)):
        scores = compare_masks(*pair, (1, 1))
        assert scores['dice'] == scores['jaccard'] == 0
        assert math.isnan(scores['hd95']) and math.isnan(scores['assd'])


def test_masks_of_different_size_are_refused():
    with pytest.raises(ValueError, match=r'differ in shape: \(5, 5\) and \(5, 6\)'):
        compare_masks(np.ones((5, 5), bool), np.ones((5, 6), bool), (1, 1))


def test_volumes():
    assert volume_ml(
        box((10, 20, 20), slice(2, 7), slice(4, 14), slice(5, 15)), (10, 1.5, 2)
    ) == pytest.approx(5 * 15 * 20 * 10 / 1000)
    z, y, x = np.mgrid[-5:6, -30:31, -30:31]
    sphere = (8.0 * z) ** 2 + (1.4 * y) ** 2 + (1.4 * x) ** 2 <= 35.0**2
    assert volume_ml(sphere, (8, 1.4, 1.4)) == pytest.approx(4 / 3 * math.pi * 3.5**3, rel=0.02)
    ring = np.broadcast_to(((y**2 + x**2 <= 25**2) & (y**2 + x**2 > 15**2))[:1], (8, 61, 61))
    mass = MYOCARDIAL_DENSITY_G_PER_ML * volume_ml(ring, (10, 1.0, 1.0))
    assert mass == pytest.approx(1.05 * math.pi * (2.5**2 - 1.5**2) * 8, rel=0.01)


@pytest.mark.parametrize(
    'volumes, expected',
    [
        (
            dict(
                lv=dict(ED=150.0, ES=60.0), myo=dict(ED=100.0, ES=98.0), rv=dict(ED=160.0, ES=80.0)
            ),
            dict(LV_EDV=150, LV_ESV=60, LV_EF=60, LV_mass=105, RV_EDV=160, RV_ESV=80, RV_EF=50),
        ),
        (dict(lv=dict(ED=150.0)), dict(LV_EDV=150)),
        (dict(lv=dict(ES=60.0), myo=dict(ES=98.0)), dict(LV_ESV=60)),
        (dict(myo={'ED': 100.0, None: 3.0}), dict(LV_mass=105)),
        ({}, {}),
    ],
    ids=['all', 'ED', 'ES', 'Myo', 'none'],
)
def test_clinical_indices(volumes, expected):
    assert clinical_indices(volumes) == pytest.approx(expected)


def test_ejection_fraction_of_nothing_is_undefined():
    assert math.isnan(clinical_indices(dict(lv=dict(ED=0.0, ES=0.0)))['LV_EF'])


def test_bland_altman():
    # Differences 1, 3, 5: mean 3, standard deviation 2.
    assert bland_altman([11, 23, 35], [10, 20, 30]) == pytest.approx((3, 3 - 3.92, 3 + 3.92))
    bias, *limits = bland_altman([11, math.nan], [10, 20])
    assert bias == 1 and all(map(math.isnan, limits))
    assert all(map(math.isnan, bland_altman([], [])))


def test_mean_of_defined():
    assert mean_of_defined([1.0, math.nan, 3.0]) == 2
    assert math.isnan(mean_of_defined([math.nan])) and math.isnan(mean_of_defined([]))
