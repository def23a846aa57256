"""A simulated patient's beating heart, segmented with some errors; and its page, as docs show it.

PYTHONPATH=. python tests/test_inference/phantom_study.py FOLDER
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
from beating_heart import MODEL, relabelled

from swin_ext.conversion.phantom_anatomy import simulate_patient
from swin_ext.conversion.phantom_images import render_slice
from swin_ext.inference.segmented_study import BodySize, SegmentedStudy


def phantom_study(num_phases: int = 20, size: int = 128, spacing_mm: float = 1.8) -> SegmentedStudy:
    """The true labels. A patient of a share of the ejection fraction is that phase of its cycle."""
    patient = simulate_patient(np.random.default_rng(5))
    phase = np.arange(num_phases) / num_phases
    # Systole until a third of the cycle, a fast filling until two thirds, and a slow one.
    emptied = np.interp(phase, [0, 0.1, 0.25, 0.35, 0.5, 0.65, 1], [0, 0.3, 0.9, 1, 0.5, 0.2, 0])
    # Those that the base leaves in systole are not part of the stack.
    planes = [z for z in patient.planes(8.0) if patient.lv_shape(z, 'ES')[0] <= 1]
    shape = (num_phases, len(planes), size, size)
    images, labels = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for t, share in enumerate(emptied):
        now = dataclasses.replace(patient, ejection_fraction=share * patient.ejection_fraction)
        for item, z in enumerate(planes):
            rng = np.random.default_rng(item)  # the same texture at all phases
            images[t, item], labels[t, item] = render_slice(now, z, 'ES', size, spacing_mm, rng)
    study = SegmentedStudy(
        name='phantom',
        images=images,
        labels=labels,
        scores=np.zeros(0),
        candidates=np.zeros(0),
        present=np.ones(shape[:2], bool),
        classes=('LV', 'Myo', 'RV'),
        pixel_spacing_mm=(spacing_mm, spacing_mm),
        slice_positions_mm=8.0 * np.arange(len(planes)),
        slice_spacing_mm=8.0,
        times_ms=phase * 850,
        assumptions=(),
        left_out=(),
        model=MODEL,
        body=BodySize(1.74, 78.0),
    )
    return relabelled(study, labels)


def with_errors(study: SegmentedStudy) -> SegmentedStudy:
    """Errors as models make them: lost, displaced, in two places, uncertain."""
    labels = study.labels.copy()
    rng = np.random.default_rng(0)
    labels[3, 4][labels[3, 4] == 3] = 0
    labels[9, 3] = np.roll(labels[9, 3], 9, axis=1)
    labels[6, 6] = 0
    labels[12:14, 2][labels[12:14, 2] == 2] = 0
    study = relabelled(study, labels)
    study.scores[...] -= rng.exponential(0.02, study.scores.shape).astype(np.float32)
    study.scores[5:8, -2] -= 0.36
    study.candidates[10, 5, 2] = 2
    study.present[15, 1] = False
    study.images[15, 1] = study.labels[15, 1] = 0
    return dataclasses.replace(
        study,
        assumptions=('Slices carry no thickness: their distance is taken from their positions.',),
        left_out=('Series 3, 12 files: it is a localizer.',),
    )


if __name__ == '__main__':
    from swin_ext.inference.report import write_report

    write_report(with_errors(phantom_study()), Path(sys.argv[1]), pdf=True)
