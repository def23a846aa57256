"""How sure a difference is: bootstrap over patients and seeds, paired tests, many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import permutation_test

REPLICATES = 1000
CONFIDENCE = 0.95
PERMUTATIONS = 99_999  # all of them where there are fewer, up to 16 patients


def bootstrap_interval(
    figure_of: Sequence[Callable[[np.ndarray], np.ndarray]],
    num_units: int,
    rng: np.random.Generator,
    replicates: int = REPLICATES,
) -> tuple[float, float]:
    """Percentile interval of the mean over seeds of a figure, patients and seeds drawn anew.

    Each replicate draws as many patients as there are, with replacement, and as many seeds: the
    patients are the same ones for all seeds, as every model is tested on all of them (a bootstrap
    of crossed factors; Owen, https://doi.org/10.1214/07-AOAS122).

    Args:
        figure_of: Of each seed, the figure by how often each patient was drawn: from (replicates,
            patients) to (replicates,). NaN where it is undefined, which does not count.
        num_units: Number of patients.

    Returns:
        Bounds of 95 %; NaN where nothing is defined.
    """
    drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), replicates)
    values = np.stack([figure(drawn.astype(float)) for figure in figure_of], axis=1)
    seeds = rng.multinomial(len(figure_of), np.full(len(figure_of), 1 / len(figure_of)), replicates)
    defined = np.isfinite(values)
    weights = seeds * defined
    with np.errstate(invalid='ignore', divide='ignore'):
        means = (weights * np.where(defined, values, 0)).sum(1) / weights.sum(1)
    means = means[np.isfinite(means)]
    if not means.size:
        return float('nan'), float('nan')
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def paired_test(first: np.ndarray, second: np.ndarray) -> tuple[float, float, int]:
    """Whether two models differ on the same patients: a two-sided sign-flip permutation test.

    Under the null hypothesis each patient's difference could as well have the other sign. The
    statistic is the mean difference; all 2^n signs are gone through, or 99,999 random ones where
    there are more. Below 6 patients no difference can reach p < 0.05.

    Args:
        first: A figure of each patient; NaN where undefined, and such patients do not count.
        second: Of the other model.

    Returns:
        Mean of second minus first, p-value (NaN with less than two patients), number of patients.
    """
    both = np.isfinite(first) & np.isfinite(second)
    difference = second[both] - first[both]
    if not difference.size:
        return float('nan'), float('nan'), 0
    if difference.size < 2:
        return float(difference.mean()), float('nan'), int(difference.size)
    result = permutation_test(
        (difference,),
        lambda sample, axis: sample.mean(axis),
        permutation_type='samples',
        n_resamples=PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    return float(difference.mean()), float(result.pvalue), int(difference.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number (Holm, Scand. J. Statist. 6, 1979); NaN do not count."""
    order = [place for place in np.argsort(p_values) if np.isfinite(p_values[place])]
    adjusted, highest = [float('nan')] * len(p_values), 0.0
    for rank, place in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
