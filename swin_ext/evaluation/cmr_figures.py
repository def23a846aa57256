"""Figures of `CMRMetric`: their names, from what the ground truth allows, and their values."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from swin_ext.evaluation.clinical import (
    INDEX_UNITS,
    bland_altman,
    clinical_indices,
    mean_of_defined,
)
from swin_ext.evaluation.cmr_comparison import CMRReport
from swin_ext.evaluation.cmr_ground_truth import CMRGroundTruth

SCORES = ('dice', 'jaccard', 'hd95', 'assd')
AGREEMENT = ('bias', 'loa_lower', 'loa_upper')


def name_figures(truth: CMRGroundTruth, classes: Sequence[str], roles: Iterable[str]) -> list[str]:
    """What the ground truth allows, whatever part of it is evaluated; see `CMRMetric`.

    Args:
        roles: Those of 'lv', 'myo' and 'rv' that a class has.
    """
    names = [f'{score}_{truth.unit}' if score in ('hd95', 'assd') else score for score in SCORES]
    if truth.stacks:
        names += ['dice_3d', 'jaccard_3d']
    measured = [stack for stack in truth.stacks if stack.spacing is not None]
    if measured:
        names += ['hd95_mm_3d', 'assd_mm_3d']
    names = [
        *names,
        *(f'{name}_{key}' for name in classes for key in [*names, 'missed', 'spurious']),
    ]
    phases = defaultdict(dict)
    for stack in measured:
        phases[stack.patient][stack.phase] = 1.0
    possible = {
        index
        for by_phase in phases.values()
        for index in clinical_indices(dict.fromkeys(roles, by_phase))
    }
    names += [
        f'{index}_{what}_{unit}'
        for index, unit in INDEX_UNITS.items()
        if index in possible
        for what in AGREEMENT
    ]
    return names + [f'not_measured_{index}' for index in sorted(possible) if 'EF' in index]


def compute_figures(
    report: CMRReport, names: Sequence[str], classes: Sequence[str]
) -> dict[str, float]:
    """Values of the names that `name_figures` gave; NaN where nothing is defined."""
    figures = dict.fromkeys(names, math.nan)

    def add(rows, score, key):
        of_class = [
            mean_of_defined([row[score] for row in rows if row['class'] == name])
            for name in classes
        ]
        figures.update({f'{name}_{key}': mean for name, mean in zip(classes, of_class)})
        figures[key] = mean_of_defined(of_class)

    for score in SCORES:
        is_distance = score in ('hd95', 'assd')
        add(report.slices, score, f'{score}_{report.unit}' if is_distance else score)
        key = f'{score}_mm_3d' if is_distance else f'{score}_3d'
        if key in figures:
            add(report.stacks, score, key)
    for name in classes:
        rows = [row for row in report.slices if row['class'] == name]
        figures[f'{name}_missed'] = sum(row['annotated'] and not row['predicted'] for row in rows)
        figures[f'{name}_spurious'] = sum(row['predicted'] and not row['annotated'] for row in rows)
    for index, unit in INDEX_UNITS.items():
        pairs = [of_patient[index] for of_patient in report.indices.values() if index in of_patient]
        if index.endswith('_EF') and f'not_measured_{index}' in figures:
            figures[f'not_measured_{index}'] = sum(
                math.isnan(pred) and not math.isnan(reference) for pred, reference in pairs
            )
        if pairs:
            for what, value in zip(AGREEMENT, bland_altman(*zip(*pairs))):
                figures[f'{index}_{what}_{unit}'] = value
    return figures
