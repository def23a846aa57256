"""Agreement of two segmentations, and the clinical figures of ventricles: plain functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

from swin_ext.coco.masks import overlap

# Schulz-Menger et al., "Standardized image interpretation and post-processing in cardiovascular
# magnetic resonance - 2020 update", J Cardiovasc Magn Reson 22:19 (2020).
MYOCARDIAL_DENSITY_G_PER_ML = 1.05

# Unit of each clinical index.
INDEX_UNITS = dict(
    LV_EDV='ml',
    LV_ESV='ml',
    LV_EF='percent',
    LV_mass='g',
    RV_EDV='ml',
    RV_ESV='ml',
    RV_EF='percent',
)


def compare_masks(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float], distances: bool = True
) -> dict[str, float]:
    """Dice, Jaccard, HD95 and ASSD of two boolean masks in 2-D or 3-D.

    A structure that is absent from both masks is not counted, and one that is absent from one of
    them has a Dice and Jaccard of 0 and no distance; both are as in nnU-Net (Isensee et al., Nat
    Methods 2021), with which the ACDC and M&Ms challenges were won. Means are taken over what is
    defined, so a mean distance says nothing of structures that were missed.

    HD95 is the larger of the two directed 95th percentiles, ASSD the mean over the surface points
    of both masks; MONAI computes them. Surfaces are the centres of the outermost pixels.

    Args:
        pred: Any shape (D, H, W) or (H, W).
        truth: The same shape.
        spacing: Distance of pixel centres along each axis, in any unit.
        distances: Whether to compute HD95 and ASSD, which take most of the time.

    Returns:
        `dice` and `jaccard` from 0 to 1, `hd95` and `assd` in the unit of `spacing`; NaN where
        undefined.
    """
    if pred.shape != truth.shape:
        raise ValueError(f'Masks differ in shape: {pred.shape} and {truth.shape}.')
    scores = dict.fromkeys(('dice', 'jaccard', 'hd95', 'assd'), math.nan)
    scores['jaccard'], scores['dice'] = overlap(pred, truth)
    if distances and pred.any() and truth.any():
        scores['hd95'], scores['assd'] = surface_distances(pred, truth, spacing)
    return scores


def surface_distances(
    pred: np.ndarray, truth: np.ndarray, spacing: Sequence[float]
) -> tuple[float, float]:
    """HD95 and ASSD of two masks that are not empty; see `compare_masks`."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    either = pred | truth
    box = tuple(
        slice(found[0], found[-1] + 1)
        for found in (
            np.flatnonzero(either.any(tuple(set(range(either.ndim)) - {axis})))
            for axis in range(either.ndim)
        )
    )
    pair = pred[box][None, None].astype(np.float32), truth[box][None, None].astype(np.float32)
    options = dict(include_background=True, spacing=[float(step) for step in spacing])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # MONAI's own deprecations
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **options)
        assd = compute_average_surface_distance(*pair, symmetric=True, **options)
    return float(hd95), float(assd)


def volume_ml(mask: np.ndarray, spacing_mm: Sequence[float]) -> float:
    """Volume of a mask (D, H, W) by summation of disks; `spacing_mm` is (slice, row, column)."""
    return float(np.count_nonzero(mask) * np.prod(spacing_mm) / 1000)


def clinical_indices(volumes_ml: dict[str, dict[str, float]]) -> dict[str, float]:
    """Indices of one patient as far as the phases are there.

    Args:
        volumes_ml: Volumes by role ('lv', 'myo', 'rv') and phase ('ED', 'ES').

    Returns:
        Some of the keys of `INDEX_UNITS`. The mass is that at end diastole. A ventricle never
        empties: where a volume is 0, the structure was not found, and the ejection fraction is NaN.
    """
    indices = {}
    for role, name in (('lv', 'LV'), ('rv', 'RV')):
        by_phase = volumes_ml.get(role, {})
        if 'ED' in by_phase:
            indices[f'{name}_EDV'] = by_phase['ED']
        if 'ES' in by_phase:
            indices[f'{name}_ESV'] = by_phase['ES']
        if {'ED', 'ES'} <= set(by_phase):
            stroke = by_phase['ED'] - by_phase['ES']
            found = by_phase['ED'] > 0 and by_phase['ES'] > 0
            indices[f'{name}_EF'] = 100 * stroke / by_phase['ED'] if found else math.nan
    if 'ED' in volumes_ml.get('myo', {}):
        indices['LV_mass'] = MYOCARDIAL_DENSITY_G_PER_ML * volumes_ml['myo']['ED']
    return indices


def bland_altman(pred: Sequence[float], reference: Sequence[float]) -> tuple[float, float, float]:
    """Bias and limits of agreement (Bland and Altman, Lancet 1986).

    Pairs with a NaN are left out.

    Returns:
        Mean of `pred - reference`, and that mean -1.96 and +1.96 standard deviations (of the
        sample, n - 1). The limits of fewer than two pairs, and the bias of none, are NaN.
    """
    difference = np.asarray(pred, float) - np.asarray(reference, float)
    difference = difference[~np.isnan(difference)]
    bias = float(difference.mean()) if len(difference) else math.nan
    half_width = 1.96 * float(difference.std(ddof=1)) if len(difference) > 1 else math.nan
    return bias, bias - half_width, bias + half_width


def mean_of_defined(values: Sequence[float]) -> float:
    """Mean of the values that are not NaN; NaN if all are."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan
