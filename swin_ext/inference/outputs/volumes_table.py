"""Areas and volumes as a table: one row for each phase, slice and class."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from swin_ext.inference.clinical_figures import slice_volumes_ml
from swin_ext.inference.segmented_study import SegmentedStudy
from swin_ext.utils.files import replacing_text

VOLUMES_FILE = 'volumes.csv'
COLUMNS = (
    'phase',
    'time_ms',
    'slice',
    'position_mm',
    'class',
    'area_mm2',
    'volume_ml',
    'score',
    'candidates',
)


def write_volumes(study: SegmentedStudy, slice_numbers: tuple[int, ...], folder: Path) -> None:
    """Write `volumes.csv`; values of a frame that the study lacks are empty.

    The volume is the area times the height of the slice's disc, which reaches half-way to the
    neighbours that the phase has. The sum of a class over a phase is its volume.

    Raises:
        OSError: If it cannot be written.
    """
    volumes = slice_volumes_ml(study)
    pixel_mm2 = float(np.prod(study.pixel_spacing_mm))
    with replacing_text(folder / VOLUMES_FILE) as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(COLUMNS)
        for phase, index in np.ndindex(study.present.shape):
            time = '' if study.times_ms is None else f'{study.times_ms[phase]:.1f}'
            position = f'{study.slice_positions_mm[index]:.3f}'
            for label, name in enumerate(study.classes):
                values = ['', '', '', '']
                if study.present[phase, index]:
                    area = np.count_nonzero(study.labels[phase, index] == label + 1) * pixel_mm2
                    score = study.scores[phase, index, label]
                    values = [
                        f'{area:.3f}',
                        f'{volumes[phase, index, label]:.6f}',
                        '' if np.isnan(score) else f'{score:.4f}',
                        study.candidates[phase, index, label],
                    ]
                writer.writerow([phase, time, slice_numbers[index], position, name, *values])
