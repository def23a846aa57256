"""What the page says of its choices and findings, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from swin_ext.evaluation.clinical import MYOCARDIAL_DENSITY_G_PER_ML
from swin_ext.inference.clinical_figures import FIGURE_UNITS, PLATEAU_SHARE, ClinicalFigures
from swin_ext.inference.findings import Finding
from swin_ext.inference.segmented_study import SegmentedStudy

CONSENSUS = (
    'Schulz-Menger et al., Standardized image interpretation and post-processing in cardiovascular '
    'magnetic resonance - 2020 update, J Cardiovasc Magn Reson 22:19 (2020)'
)
FIGURE_NAMES = {
    'EDV': 'End-diastolic volume',
    'ESV': 'End-systolic volume',
    'SV': 'Stroke volume',
    'EF': 'Ejection fraction',
    'mass': 'Myocardial mass at ED',
}
UNITS = {'percent': '%'}


@dataclass(frozen=True)
class Row:
    """One figure of both ventricles as text; '' where there is none.

    Args:
        key: End of its key in `FIGURE_UNITS`.
        name: In words.
        unit: Of the values; that of the indexed ones is the same per m2.
        values: By ventricle.
        indexed: By ventricle.
    """

    key: str
    name: str
    unit: str
    values: dict[str, str]
    indexed: dict[str, str]


def ventricles_of(figures: ClinicalFigures) -> list[str]:
    """'LV' and 'RV' as far as they have figures."""
    return [name for name in ('LV', 'RV') if any(key.startswith(name) for key in figures.figures)]


def figure_rows(figures: ClinicalFigures) -> list[Row]:
    """The figures that any ventricle has."""
    rows = []
    for short, name in FIGURE_NAMES.items():
        keys = {ventricle: f'{ventricle}_{short}' for ventricle in ventricles_of(figures)}
        if any(key in figures.figures for key in keys.values()):
            unit = FIGURE_UNITS[f'LV_{short}']
            values, indexed = (
                {
                    ventricle: f'{known[key]:.1f}' if key in known else ''
                    for ventricle, key in keys.items()
                }
                for known in (figures.figures, figures.indexed)
            )
            rows.append(Row(short, name, UNITS.get(unit, unit), values, indexed))
    return rows


def choices(study: SegmentedStudy, figures: ClinicalFigures) -> list[tuple[str, str]]:
    """Topic and statement of each choice that the consensus asks a report to state."""
    regular = max(abs(step - study.slice_spacing_mm) for step in _steps(study)) < 0.1
    distances = (
        f'{study.slice_spacing_mm:.4g} mm' if regular else 'which differ from slice to slice here'
    )
    if figures.body_surface_m2:
        indexing = (
            f'To a body surface of {figures.body_surface_m2:.2f} m\u00b2 (Mosteller, N Engl J Med '
            '317:1098, 1987), from the height and weight that the header says.'
        )
    else:
        indexing = 'None, for lack of a height and a weight in the header.'
    if figures.decided_by is None:
        phases = 'None: no cavity was found.'
    else:
        phases = (
            f'By the volume of {figures.decided_by}, the same for both ventricles: the last phase '
            f'before the ejection that is within {PLATEAU_SHARE:.2%} of the largest, and the first '
            'after it that is as near to the smallest. Lone leaps of the curve and phases that '
            'lack a slice are passed over.'
        )
    return [
        (
            'Volumes',
            'Summation of discs: area times the distance of slice centres as the positions of the '
            f'header say it ({distances}), so that gaps between slices are counted in. A slice that'
            ' is absent at a phase is bridged by its neighbours.',
        ),
        ('ED and ES', phases),
        (
            'Base slice',
            'Each slice counts in which the model found the structure. The consensus counts a slice'
            ' to LV if myocardium surrounds half of the blood or more; slices that do not fulfil '
            'this are listed as findings, not left out.',
        ),
        (
            'Papillary muscles and trabeculae',
            'In or out as in the contours that the model was trained with; in those of the data '
            'sets that swin_ext names they belong to the cavity, and not to the mass. See the card '
            'of the model.',
        ),
        (
            'Mass',
            f'Volume of Myo at ED times {MYOCARDIAL_DENSITY_G_PER_ML:g} g/ml.',
        ),
        ('Indexing', indexing),
        (
            'Order of slices',
            'From base to apex; the end at which the cavity is larger is taken as the base. Slices '
            'and phases are counted from 0.',
        ),
    ]


def _steps(study: SegmentedStudy) -> list[float]:
    positions = list(study.slice_positions_mm)
    return [b - a for a, b in zip(positions, positions[1:])] or [study.slice_spacing_mm]


@dataclass(frozen=True)
class FindingGroup:
    """Findings of the same kind about the same structure in the same slice.

    Args:
        findings: In the order of their phases.
        where: Slice and phases in words.
    """

    findings: tuple[Finding, ...]
    where: str

    @property
    def first(self) -> Finding:
        return self.findings[0]


def group(findings: Sequence[Finding]) -> list[FindingGroup]:
    """Join findings that differ in their phase alone; the order of the first of each stays."""
    groups: dict[tuple, list[Finding]] = {}
    for number, finding in enumerate(findings):
        key = (finding.kind, finding.severity, finding.structure, finding.slice)
        if finding.phase is None:
            key += (number,)
        groups.setdefault(key, []).append(finding)
    return [FindingGroup(tuple(found), _where(found)) for found in groups.values()]


def _where(findings: Sequence[Finding]) -> str:
    parts = []
    if findings[0].slice is not None:
        parts.append(f'slice {findings[0].slice}')
    phases = sorted({finding.phase for finding in findings if finding.phase is not None})
    if phases:
        parts.append(f'phase{"s" if len(phases) > 1 else ""} {ranges(phases)}')
    return ', '.join(parts) or 'the study'


def ranges(numbers: Sequence[int]) -> str:
    """Rising numbers as '0, 2-5'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ', '.join(f'{run[0]}-{run[-1]}' if len(run) > 1 else f'{run[0]}' for run in runs)
