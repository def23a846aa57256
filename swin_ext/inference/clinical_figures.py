"""Volumes of a segmented study and what is made of them: ED and ES, EF, mass, indexed figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swin_ext.evaluation.clinical import INDEX_UNITS, clinical_indices
from swin_ext.inference.segmented_study import BodySize, SegmentedStudy

FIGURE_UNITS = {**INDEX_UNITS, 'LV_SV': 'ml', 'RV_SV': 'ml'}
# Of the structures that empty in systole, the first that a study has decides on ED and ES.
DECIDING_ROLES = ('lv', 'rv')
# A lone peak or dip of the curve beyond this share of its largest volume is an error of the
# segmentation: ventricles eject at most about a tenth of EDV from one of 20 phases to the next,
# and are slower than that where they are fullest and emptiest.
OUTLIER_SHARE = 0.2
MIN_CURVE_PHASES = 10  # with fewer, a systole can itself be a lone dip
# Volumes that differ by less, as a share of the largest, are the same: at both ends of the curve
# several phases have nearly one volume, and the error of a segmentation decides which is extreme.
# Of a cine at rest the model in the box gives volumes with a standard deviation of 0.5 %.
PLATEAU_SHARE = 0.0075
# What a height or weight must lie in to be believed; outside it is in another unit, or no entry.
HEIGHT_RANGE_M = (0.4, 2.5)
WEIGHT_RANGE_KG = (2.0, 400.0)


@dataclass(frozen=True)
class ClinicalFigures:
    """What a study amounts to.

    Args:
        volumes_ml: float64 (T, S, C), of each structure on each frame; 0 on frames that are absent.
        curves_ml: float64 (T, C), of the whole stack.
        ed: Phase that is end diastole; None where no cavity was found.
        es: Phase that is end systole; None where there is only one phase, too.
        decided_by: The class whose curve decided on them.
        figures: By the keys of `FIGURE_UNITS`, as far as the structures were found.
        indexed: The same per m2 of body surface; without EF, and empty without a body size.
        body_surface_m2: By Mosteller's formula; None without a body size.
        notes: Sentences on what a reader of the figures should know.
    """

    volumes_ml: np.ndarray
    curves_ml: np.ndarray
    ed: int | None
    es: int | None
    decided_by: str | None
    figures: dict[str, float]
    indexed: dict[str, float]
    body_surface_m2: float | None
    notes: tuple[str, ...]


def clinical_figures(study: SegmentedStudy) -> ClinicalFigures:
    """Compute volumes, choose ED and ES, and compute what depends on them."""
    volumes_ml = slice_volumes_ml(study)
    curves_ml = volumes_ml.sum(1)
    label_of = roles(study.classes)
    notes: list[str] = []
    deciding = next(
        (
            role
            for role in DECIDING_ROLES
            if role in label_of and curves_ml[:, label_of[role]].any()
        ),
        None,
    )
    ed = es = None
    if deciding is None:
        notes.append('No cavity of a ventricle was found: there is no ED, no ES, and no figure.')
    else:
        ed, es = choose_phases(volumes_ml[..., label_of[deciding]], study.present, notes)
    figures = _figures_of(curves_ml, label_of, ed, es)
    if {'lv', 'rv'} <= set(label_of) and None not in (ed, es) and deciding == 'lv':
        _compare_phases(volumes_ml[..., label_of['rv']], study.present, ed, es, notes)
    surface = body_surface_m2(study.body, notes)
    indexed = {}
    if surface:
        indexed = {
            name: value / surface
            for name, value in figures.items()
            if FIGURE_UNITS[name] != 'percent'
        }
    return ClinicalFigures(
        volumes_ml,
        curves_ml,
        ed,
        es,
        None if deciding is None else study.classes[label_of[deciding]],
        figures,
        indexed,
        surface,
        tuple(notes),
    )


def roles(classes: tuple[str, ...]) -> dict[str, int]:
    """Index of the classes that are the cavity of the LV, its myocardium, and that of the RV."""
    lower = [name.lower() for name in classes]
    return {role: lower.index(role) for role in ('lv', 'myo', 'rv') if role in lower}


def slice_volumes_ml(study: SegmentedStudy) -> np.ndarray:
    """Volume of each structure on each frame, float64 (T, S, C).

    Each slice is a disc that reaches half-way to the neighbours that its phase has, as their
    positions say. A slice that is absent between two others is so bridged by these; nothing is
    added beyond the first and the last slice but half a slice distance each.
    """
    areas_mm2 = frame_areas_px(study) * np.prod(study.pixel_spacing_mm)
    heights_mm = np.zeros(study.present.shape)
    for phase, present in enumerate(study.present):
        heights_mm[phase, present] = disc_heights_mm(
            study.slice_positions_mm[present], study.slice_spacing_mm
        )
    return areas_mm2 * heights_mm[..., None] / 1000


def frame_areas_px(study: SegmentedStudy) -> np.ndarray:
    """Pixels of each structure on each frame, int64 (T, S, C)."""
    return np.stack(
        [(study.labels == label).sum((2, 3)) for label in range(1, len(study.classes) + 1)], axis=-1
    )


def disc_heights_mm(positions_mm: np.ndarray, slice_spacing_mm: float) -> np.ndarray:
    """Heights of the discs of slices at rising positions (S,); all equal in a regular stack."""
    if not len(positions_mm):
        return np.zeros(0)
    steps = np.concatenate([[slice_spacing_mm], np.diff(positions_mm), [slice_spacing_mm]])
    return (steps[:-1] + steps[1:]) / 2


def choose_phases(
    volumes_ml: np.ndarray, present: np.ndarray, notes: list[str]
) -> tuple[int, int | None]:
    """Phases of the largest and the smallest volume, where diastole and systole end.

    Of phases with nearly the largest volume (`PLATEAU_SHARE`) ED is the last before the ejection,
    of those with nearly the smallest ES is the first after it, as the end of the one and of the
    other is defined by the closing of the mitral and of the aortic valve (Mada R et al., JACC
    Cardiovasc Imaging 8:148, 2015). The curve is taken as a cycle.

    Passed over, as far as there are others, are phases in which the structure was not found, or
    not in a slice between two that have it, or that lack slices that others have; and lone peaks
    and dips (`OUTLIER_SHARE`) of the curve.

    Args:
        volumes_ml: (T, S), not all 0.
        present: bool (T, S).
        notes: Is added what was passed over.
    """
    curve_ml = volumes_ml.sum(1)
    if len(curve_ml) == 1:
        notes.append('The study has one phase, which is taken as ED: there is no ESV and no EF.')
        return 0, None
    num_slices = present.sum(1)
    usable = (curve_ml > 0) & (num_slices == num_slices[curve_ml > 0].max())
    whole = ~(present & missing_between(volumes_ml > 0)).any(1)
    if (usable & whole).sum() > 1:
        usable &= whole
    if usable.sum() >= MIN_CURVE_PHASES:
        curve = curve_ml[usable]
        around = np.median([np.roll(curve, 1), curve, np.roll(curve, -1)], axis=0)
        usable[usable] = np.abs(curve - around) <= OUTLIER_SHARE * around.max()
    passed_over = np.flatnonzero(~usable)
    if len(passed_over):
        phases = ', '.join(map(str, passed_over))
        notes.append(
            f'Phases {phases} were passed over in choosing ED and ES: the structure was not found '
            'in all slices or a slice is absent there, or the volume leaps from the phases around.'
        )
    phases = np.flatnonzero(usable)
    if len(phases) == 1:
        notes.append('The volume is known at one phase alone: there is no ESV and no EF.')
        return int(phases[0]), None
    ed, es = _ends_of_diastole_and_systole(curve_ml[usable])
    return int(phases[ed]), int(phases[es])


def _ends_of_diastole_and_systole(curve_ml: np.ndarray) -> tuple[int, int]:
    """Indices of ED and ES in the cycle of volumes (T,), which has two phases or more."""
    tolerance_ml = PLATEAU_SHARE * curve_ml.max()
    around = np.arange(1, len(curve_ml))
    before = (curve_ml.argmin() - around) % len(curve_ml)
    ed = before[np.argmax(curve_ml[before] >= curve_ml[before].max() - tolerance_ml)]
    after = (ed + around) % len(curve_ml)
    es = after[np.argmax(curve_ml[after] <= curve_ml[after].min() + tolerance_ml)]
    return ed, es


def missing_between(found: np.ndarray) -> np.ndarray:
    """Where something was not found, but on both sides along the second axis; bool (T, S, ...)."""
    before = np.maximum.accumulate(found, axis=1)
    after = np.maximum.accumulate(found[:, ::-1], axis=1)[:, ::-1]
    return ~found & before & after


def _figures_of(
    curves_ml: np.ndarray, label_of: dict[str, int], ed: int | None, es: int | None
) -> dict[str, float]:
    phases = {name: phase for name, phase in (('ED', ed), ('ES', es)) if phase is not None}
    figures = clinical_indices(
        {
            role: {name: float(curves_ml[phase, label]) for name, phase in phases.items()}
            for role, label in label_of.items()
            if ed is not None and curves_ml[ed, label] > 0
        }
    )
    for ventricle in ('LV', 'RV'):
        if f'{ventricle}_ESV' in figures:
            figures[f'{ventricle}_SV'] = figures[f'{ventricle}_EDV'] - figures[f'{ventricle}_ESV']
    return figures


def _compare_phases(
    rv_volumes_ml: np.ndarray, present: np.ndarray, ed: int, es: int, notes: list[str]
) -> None:
    """Note where the curve of the RV alone would have chosen other phases."""
    rv_ml = rv_volumes_ml.sum(1)
    if not rv_ml.any():
        return
    own = choose_phases(rv_volumes_ml, present, [])
    for name, common, phase in zip(('largest', 'smallest'), (ed, es), own):
        if phase is None:
            continue
        apart = abs(phase - common)
        if min(apart, len(rv_ml) - apart) > 1:
            notes.append(
                f'RV is {name} at phase {phase} ({rv_ml[phase]:.1f} ml), but its figures are taken '
                f'at phase {common} ({rv_ml[common]:.1f} ml), which LV decided.'
            )


def body_surface_m2(body: BodySize, notes: list[str]) -> float | None:
    """Body surface by Mosteller, N Engl J Med 317:1098 (1987); None if it cannot be known.

    Args:
        notes: Is added what makes a size of the header unbelievable.
    """
    if body.height_m is None or body.weight_kg is None:
        return None
    for value, unit, (low, high) in (
        (body.height_m, 'm', HEIGHT_RANGE_M),
        (body.weight_kg, 'kg', WEIGHT_RANGE_KG),
    ):
        if not low <= value <= high:
            notes.append(
                f'The header says a body size of {value:g} {unit}, which is not believed: figures '
                'are not indexed.'
            )
            return None
    return (body.height_m * 100 * body.weight_kg / 3600) ** 0.5
