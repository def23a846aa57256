"""A study whose figures are known: coaxial cylinders that beat."""

from __future__ import annotations

import dataclasses

import numpy as np

from swin_ext.inference.segmented_study import ModelIdentity, SegmentedStudy

SIZE = 64
PIXEL_MM = (2.0, 1.5)
SPACING_MM = 8.0
RV_SHARE = 0.85  # of the area of LV
MODEL = ModelIdentity('toy.pth', 'ab' * 32, '0.3.0', 0.5, {'segm_mAP': 0.61})


def disc(radius_mm: float, centre_mm: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
    """Boolean (SIZE, SIZE), of the pixels whose centre lies within."""
    y, x = (
        (np.arange(SIZE) - (SIZE - 1) / 2) * step - shift
        for step, shift in zip(PIXEL_MM, centre_mm)
    )
    return np.hypot(y[:, None], x[None]) < radius_mm


def box_of_rv(lv_radius_mm: float) -> np.ndarray:
    """Boolean (SIZE, SIZE), a box above LV and Myo, as wide as its share of the area of LV asks."""
    rows = slice(1, 14)
    width_mm = RV_SHARE * np.pi * lv_radius_mm**2 / (13 * PIXEL_MM[0])
    x = (np.arange(SIZE) - (SIZE - 1) / 2) * PIXEL_MM[1]
    mask = np.zeros((SIZE, SIZE), bool)
    mask[rows] = np.abs(x) < width_mm / 2
    return mask


def radii_mm(num_phases: int) -> np.ndarray:
    """Of LV: largest at phase 0, smallest at 2/5 of the cycle."""
    phase = np.arange(num_phases) / num_phases
    relaxed = np.where(phase < 0.4, 1 - phase / 0.4, (phase - 0.4) / 0.6)
    return 22 - 4 * np.cos(np.pi * relaxed)


def beating_heart(num_phases: int = 10, num_slices: int = 5, **changes) -> SegmentedStudy:
    """LV (a cylinder) in a ring of Myo of constant area, and RV, a box, beside it."""
    labels = np.zeros((num_phases, num_slices, SIZE, SIZE), np.uint8)
    for phase, radius in enumerate(radii_mm(num_phases)):
        outer = np.hypot(radius, 20.0)
        labels[phase][:, box_of_rv(radius)] = 3
        labels[phase][:, disc(outer)] = 2
        labels[phase][:, disc(radius)] = 1
    shape = (num_phases, num_slices)
    found = np.stack([(labels == label).any((2, 3)) for label in (1, 2, 3)], -1)
    levels = np.array([40, 200, 60, 180], np.uint8)
    study = SegmentedStudy(
        name='toy',
        images=levels[labels],
        labels=labels,
        scores=np.where(found, np.float32(0.97), np.float32(np.nan)),
        candidates=found.astype(int),
        present=np.ones(shape, bool),
        classes=('LV', 'Myo', 'RV'),
        pixel_spacing_mm=PIXEL_MM,
        slice_positions_mm=SPACING_MM * np.arange(num_slices),
        slice_spacing_mm=SPACING_MM,
        times_ms=np.arange(num_phases) * 40.0,
        assumptions=(),
        left_out=(),
        model=MODEL,
    )
    return dataclasses.replace(study, **changes)


def relabelled(study: SegmentedStudy, labels: np.ndarray) -> SegmentedStudy:
    """With other labels, and scores where these are."""
    found = np.stack(
        [(labels == label).any((2, 3)) for label in range(1, len(study.classes) + 1)], -1
    )
    scores = np.where(found, np.float32(0.97), np.float32(np.nan))
    return dataclasses.replace(study, labels=labels, scores=scores, candidates=found.astype(int))
