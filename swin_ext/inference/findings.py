"""What a person should look at before the figures of a study are believed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from swin_ext.inference.clinical_figures import (
    ClinicalFigures,
    clinical_figures,
    frame_areas_px,
    missing_between,
    roles,
)
from swin_ext.inference.segmented_study import SegmentedStudy

# The most urgent first.
SEVERITIES = ('high', 'medium', 'low')
# Instances that lie well are mostly given more than 0.9; what is found between this and the
# threshold of the model is one that it hesitated to call.
LOW_SCORE = 0.7
# Bump of an area over the median of itself and both neighbours, by the largest area of the
# structure at that phase or in that slice. The median of a series that rises or falls is itself,
# however steep: an apex that ends or a systole is none. Of 526 slices with an expert's contour
# (Sunnybrook, docs/report.md) 1 is beyond.
AREA_JUMP_SLICES = 0.25
AREA_JUMP_PHASES = 0.2
# The same of the centre, in mm. Breath-holds differ by some mm; a centre that is off by more than a
# wall is another structure. 2 of the same 526 slices are beyond.
CENTRE_JUMP_SLICES_MM = 10.0
CENTRE_JUMP_PHASES_MM = 6.0
MIN_CINE_PHASES = 5  # fewer are no series in time
# A slice belongs to the LV where its muscle surrounds half of the blood or more (Schulz-Menger et
# al., J Cardiovasc Magn Reson 22:19, 2020).
ENCLOSED_SHARE = 0.5
# Both ventricles eject the same volume but for shunts and leaking valves, and measuring errors.
STROKE_DIFFERENCE = 0.25


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Args:
        kind: The same words for the same cause; findings of a kind can be counted.
        severity: One of `SEVERITIES`.
        text: A sentence.
        slice: Index of the slice, None where it is about more.
        phase: Index of the phase, None where it is about more.
        structure: Name of the class, if it is about one.
    """

    kind: str
    severity: str
    text: str
    slice: int | None = None
    phase: int | None = None
    structure: str | None = None


def find(study: SegmentedStudy, figures: ClinicalFigures | None = None) -> list[Finding]:
    """Look for all that is known to go wrong, the most urgent first."""
    figures = figures or clinical_figures(study)
    areas = frame_areas_px(study)
    found = [
        *_absent_frames(study),
        *_gaps(study, areas),
        *_jumps(study, areas),
        *_not_enclosed(study),
        *_several_candidates(study),
        *_low_scores(study),
        *_stroke_volumes(figures),
        *(Finding('note on the figures', 'low', text) for text in figures.notes),
        *(Finding('assumption', 'low', text) for text in study.assumptions),
    ]
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def count_by_frame(findings: Sequence[Finding], shape: tuple[int, int]) -> np.ndarray:
    """Number of findings about each frame, int (T, S); those about more are not counted."""
    counts = np.zeros(shape, int)
    for finding in findings:
        if finding.slice is not None and finding.phase is not None:
            counts[finding.phase, finding.slice] += 1
    return counts


def _absent_frames(study: SegmentedStudy) -> Iterator[Finding]:
    for phase, item in zip(*np.nonzero(~study.present)):
        text = (
            'The study has no such frame: its volume is taken from the slices beside it, or is '
            'missing at an end of the stack.'
        )
        yield Finding('frame absent', 'medium', text, int(item), int(phase))


def _gaps(study: SegmentedStudy, areas: np.ndarray) -> Iterator[Finding]:
    """Structures that are missing between two slices, or between two phases, that have them."""
    found = areas > 0
    lost = study.present[..., None] & ~found
    amid_stack = lost & missing_between(found)
    amid_cine = np.zeros_like(lost)
    if len(found) >= MIN_CINE_PHASES:
        amid_cine[1:-1] = lost[1:-1] & found[:-2] & found[2:]
    for phase, item, label in zip(*np.nonzero(amid_stack | amid_cine)):
        name = study.classes[label]
        where = 'slices' if amid_stack[phase, item, label] else 'phases'
        text = f'{name} was not found, but in {where} on both sides.'
        yield Finding('structure missing', 'high', text, int(item), int(phase), name)


def _jumps(study: SegmentedStudy, areas: np.ndarray) -> Iterator[Finding]:
    centres = _centres_mm(study, areas)
    directions = [(1, 'slices', 'slice', AREA_JUMP_SLICES, CENTRE_JUMP_SLICES_MM)]
    if len(areas) >= MIN_CINE_PHASES:
        directions.append((0, 'phases', 'phase', AREA_JUMP_PHASES, CENTRE_JUMP_PHASES_MM))
    for axis, many, one, most_area, most_mm in directions:
        largest = np.maximum(areas.max(axis, keepdims=True), 1)
        area_bump = _bump(np.where(areas > 0, areas, np.nan) / largest, axis)
        centre_bump = np.linalg.norm(_bump(centres, axis), axis=-1)
        for place in zip(*np.nonzero(np.abs(area_bump) > most_area)):
            phase, item, label = map(int, place)
            name = study.classes[label]
            word = 'larger' if area_bump[place] > 0 else 'smaller'
            text = (
                f'{name} is {word} than in both {many} beside it, by {abs(area_bump[place]):.0%} of'
                f' its largest area at this {"phase" if one == "slice" else "slice"}.'
            )
            yield Finding(f'volume jumps between {many}', 'medium', text, item, phase, name)
        for place in zip(*np.nonzero(centre_bump > most_mm)):
            phase, item, label = map(int, place)
            name = study.classes[label]
            text = f'The centre of {name} is {centre_bump[place]:.0f} mm off that of both {many}.'
            yield Finding(f'centre jumps between {many}', 'medium', text, item, phase, name)


def _bump(values: np.ndarray, axis: int) -> np.ndarray:
    """Value less the median of itself and its neighbours; 0 at the ends and beside NaN."""
    values = np.moveaxis(values, axis, 0)
    bumps = np.zeros_like(values)
    if len(values) > 2:
        triples = np.stack([values[:-2], values[1:-1], values[2:]])
        bumps[1:-1] = np.nan_to_num(values[1:-1] - np.median(triples, axis=0))
    return np.moveaxis(bumps, 0, axis)


def _centres_mm(study: SegmentedStudy, areas: np.ndarray) -> np.ndarray:
    """Centre of each structure on each frame in mm down and along, (T, S, C, 2); NaN without."""
    centres = np.full((*areas.shape, 2), np.nan)
    for label in range(areas.shape[-1]):
        masks = study.labels == label + 1
        with np.errstate(invalid='ignore'):
            for way, (other, step) in enumerate(zip((3, 2), study.pixel_spacing_mm)):
                profile = masks.sum(other)
                positions = np.arange(profile.shape[-1]) * step
                centres[..., label, way] = (profile * positions).sum(-1) / areas[..., label]
    return centres


def enclosed_shares(study: SegmentedStudy) -> np.ndarray:
    """Share of the outline of LV that borders on Myo, (T, S); NaN where there is no LV."""
    label_of = roles(study.classes)
    shares = np.full(study.present.shape, np.nan)
    around = ndimage.generate_binary_structure(2, 1)
    for place in np.ndindex(shares.shape):
        cavity = study.labels[place] == label_of['lv'] + 1
        if cavity.any():
            rim = ndimage.binary_dilation(cavity, around) & ~cavity
            shares[place] = (study.labels[place][rim] == label_of['myo'] + 1).mean()
    return shares


def _not_enclosed(study: SegmentedStudy) -> Iterator[Finding]:
    if not {'lv', 'myo'} <= set(roles(study.classes)):
        return
    shares = enclosed_shares(study)
    found = ~np.isnan(shares)
    for phase, item in zip(*np.nonzero(np.nan_to_num(shares, nan=1.0) < ENCLOSED_SHARE)):
        at_end = not (found[phase, :item].any() and found[phase, item + 1 :].any())
        text = f'Myo surrounds {shares[phase, item]:.0%} of the outline of LV.'
        if at_end:
            text += ' By the consensus such a slice at the base is not counted to LV; here it is.'
        severity = 'low' if at_end else 'high'
        yield Finding('LV outside Myo', severity, text, int(item), int(phase), 'LV')


def _several_candidates(study: SegmentedStudy) -> Iterator[Finding]:
    for phase, item, label in zip(*np.nonzero(study.candidates > 1)):
        name, count = study.classes[label], study.candidates[phase, item, label]
        text = f'There are {count} candidates for {name}, of which the most certain one was taken.'
        yield Finding('several candidates', 'medium', text, int(item), int(phase), name)


def _low_scores(study: SegmentedStudy) -> Iterator[Finding]:
    scores = np.nan_to_num(study.scores, nan=1.0)
    for phase, item, label in zip(*np.nonzero(scores < LOW_SCORE)):
        name = study.classes[label]
        text = f'{name} has a score of {scores[phase, item, label]:.2f} only.'
        yield Finding('low score', 'low', text, int(item), int(phase), name)


def _stroke_volumes(figures: ClinicalFigures) -> Iterator[Finding]:
    left, right = (figures.figures.get(f'{name}_SV') for name in ('LV', 'RV'))
    if left is None or right is None:
        return
    if abs(left - right) > STROKE_DIFFERENCE * max(left, right):
        text = (
            f'LV ejects {left:.0f} ml and RV {right:.0f} ml: without a shunt or a leaking valve '
            'they are about equal.'
        )
        yield Finding('stroke volumes differ', 'medium', text)
