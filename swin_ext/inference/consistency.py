"""Corrections of label maps by what hearts are like; each is off unless it is asked for."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from swin_ext.inference.clinical_figures import roles
from swin_ext.inference.findings import ENCLOSED_SHARE, MIN_CINE_PHASES
from swin_ext.inference.segmented_study import SegmentedStudy

WITH_CORNERS = np.ones((3, 3), bool)
KEPT_SHARE = 0.25
# In phases: narrow against a systole, which takes about 7 of 20.
PHASE_SIGMA = 0.7
# Distances are cut here: what is far from an outline says nothing of where it lies.
FAR_PX = 6.0


def largest_parts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Keep the largest connected part of each structure on each frame; what is far smaller goes.

    Parts of at least `KEPT_SHARE` of the largest one stay, too: a ring may be in pieces.

    Args:
        labels: uint8 (T, S, H, W), 0 is background.
        num_classes: Labels are 1 to this.

    Returns:
        New labels of the same shape.
    """
    kept = np.zeros_like(labels)
    for place in np.ndindex(labels.shape[:2]):
        for label in range(1, num_classes + 1):
            parts, count = ndimage.label(labels[place] == label, WITH_CORNERS)
            if count:
                sizes = np.bincount(parts.ravel())
                sizes[0] = 0  # what is not of this label
                kept[place][(sizes >= KEPT_SHARE * sizes.max())[parts] & (parts > 0)] = label
    return kept


def close_rings(labels: np.ndarray, lv: int, myo: int) -> np.ndarray:
    """Give the cavity a closed ring of muscle where most of it is there.

    Background that LV and Myo enclose becomes Myo. A gap, where LV borders on background, is
    closed with muscle as thick as the rest of the ring is in the median. Slices of which the
    muscle surrounds less than half of the cavity are left alone: they lie at the base, where the
    ring is open. No pixel of another structure is changed.

    Args:
        labels: uint8 (T, S, H, W), 0 is background.
        lv: Label of the cavity.
        myo: Label of the muscle.

    Returns:
        New labels of the same shape.
    """
    closed = labels.copy()
    for place in np.ndindex(labels.shape[:2]):
        _close_ring(closed[place], lv, myo)
    return closed


def _close_ring(labels: np.ndarray, lv: int, myo: int) -> None:
    cavity, muscle = labels == lv, labels == myo
    if not cavity.any() or not muscle.any():
        return
    rim = ndimage.binary_dilation(cavity) & ~cavity
    if (labels[rim] == myo).mean() < ENCLOSED_SHARE:
        return
    background = labels == 0
    muscle |= ndimage.binary_fill_holes(cavity | muscle) & background
    gap = rim & background & ~muscle
    if gap.any():
        # The wall ends where its outermost pixels are: those that border on something else.
        depth, nearest = ndimage.distance_transform_edt(~cavity, return_indices=True)
        outer = muscle & ndimage.binary_dilation(~(cavity | muscle))
        thickness = np.median(depth[outer]) if outer.any() else 1.0
        open_cavity = cavity & ndimage.binary_dilation(gap)
        behind_gap = open_cavity[tuple(nearest)]
        muscle |= background & behind_gap & (depth <= thickness)
    labels[muscle & background] = myo


def smooth_phases(labels: np.ndarray, present: np.ndarray, num_classes: int) -> np.ndarray:
    """Smooth outlines over the phases of the cycle, by a Gaussian over signed distances.

    A pixel has the structure whose smoothed distance is the largest, if it is inside of any. A
    structure that one phase lacks is taken from the phases on both sides, if these have it. With
    fewer than 5 phases nothing changes; frames that are absent neither count nor change.

    Args:
        labels: uint8 (T, S, H, W), 0 is background.
        present: bool (T, S).
        num_classes: Labels are 1 to this.

    Returns:
        New labels of the same shape.
    """
    if len(labels) < MIN_CINE_PHASES:
        return labels.copy()
    smooth = labels.copy()
    for item in range(labels.shape[1]):
        if not labels[:, item].any():
            continue
        masks = np.stack([labels[:, item] == label for label in range(1, num_classes + 1)])
        found = masks.any((2, 3))  # (C, T)
        lost = ~found & np.roll(found, 1, axis=1) & np.roll(found, -1, axis=1)
        weights = (present[:, item] & ~lost).astype(float)
        distances = np.array([[_signed_distance(mask) for mask in of_class] for of_class in masks])
        blurred, norm = (
            ndimage.gaussian_filter1d(values, PHASE_SIGMA, 1, mode='wrap', truncate=3)
            for values in (distances * weights[..., None, None], weights)
        )
        blurred /= np.maximum(norm, 1e-9)[..., None, None]
        chosen = np.where(blurred.max(0) > 0, blurred.argmax(0) + 1, 0)
        smooth[present[:, item], item] = chosen[present[:, item]]
    return smooth


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Distance to the outline in pixels, positive inside, cut at `FAR_PX`."""
    if not mask.any():
        return np.full(mask.shape, -FAR_PX)
    inside, outside = (ndimage.distance_transform_edt(part) for part in (mask, ~mask))
    # An outline runs between pixels, half a pixel from the centre of each.
    return np.clip(np.where(mask, inside - 0.5, 0.5 - outside), -FAR_PX, FAR_PX)


def _of_largest_parts(study: SegmentedStudy) -> np.ndarray:
    return largest_parts(study.labels, len(study.classes))


def _of_closed_rings(study: SegmentedStudy) -> np.ndarray:
    label_of = roles(study.classes)
    if not {'lv', 'myo'} <= set(label_of):
        return study.labels.copy()
    return close_rings(study.labels, label_of['lv'] + 1, label_of['myo'] + 1)


def _of_smooth_phases(study: SegmentedStudy) -> np.ndarray:
    return smooth_phases(study.labels, study.present, len(study.classes))


# Corrected labels of a study, by the name that a command line gives them.
CORRECTIONS = {
    'largest-part': _of_largest_parts,
    'closed-ring': _of_closed_rings,
    'smooth-phases': _of_smooth_phases,
}
