"""What is known of a segmented study: the one object that all outputs are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ModelIdentity:
    """Which model made a segmentation.

    Args:
        name: File name of the model.
        sha256: Of that file.
        version: Of swin_ext when the model was written.
        score_threshold: Instances below were not used.
        figures: Of its validation, by name, as the file gives them.
    """

    name: str
    sha256: str
    version: str
    score_threshold: float
    figures: dict[str, float]


@dataclass(frozen=True)
class BodySize:
    """As the header of the study says it; either may be missing."""

    height_m: float | None = None
    weight_kg: float | None = None


@dataclass(frozen=True)
class SegmentedStudy:
    """The short-axis stack of a study, of T phases, S slices and C classes, with its segmentation.

    Args:
        name: What outputs call the study; never the name or id of a patient.
        images: uint8 (T, S, H, W), grey levels as the model saw them; 0 where `present` is False.
        labels: uint8 (T, S, H, W); 0 is background and i + 1 is `classes[i]`.
        scores: float32 (T, S, C), of the instance that was used; NaN where there is none.
        candidates: int (T, S, C), instances of the class above the threshold.
        present: bool (T, S), whether the study has that frame.
        classes: In the order of the model.
        pixel_spacing_mm: Distance of pixel centres down the rows and along them.
        slice_positions_mm: float64 (S,), along the normal of the stack, rising.
        slice_spacing_mm: Distance of neighbouring slices.
        times_ms: float64 (T,) after the R wave; None where the study does not say it.
        assumptions: Sentences on what was assumed of place, time or spacing.
        left_out: Sentences on what of the study was not chosen, and why.
        model: That segmented it.
        body: Of the patient, for indexed figures.
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    candidates: np.ndarray
    present: np.ndarray
    classes: tuple[str, ...]
    pixel_spacing_mm: tuple[float, float]
    slice_positions_mm: np.ndarray
    slice_spacing_mm: float
    times_ms: np.ndarray | None
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...]
    model: ModelIdentity
    body: BodySize = BodySize()
