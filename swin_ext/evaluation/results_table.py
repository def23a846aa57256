"""One table per class from the figures of a test, for people and for programs."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

from swin_ext.evaluation.clinical import INDEX_UNITS
from swin_ext.utils.files import replacing_text

# Heading, key of a class and key of the mean over classes. HD95 in mm or, without spacing, pixels.
COLUMNS = (
    ('Box AP', 'coco/bbox_{}_precision', 'coco/bbox_mAP'),
    ('Box AP50', 'coco/bbox_{}_precision_50', 'coco/bbox_mAP_50'),
    ('Mask AP', 'coco/segm_{}_precision', 'coco/segm_mAP'),
    ('Mask AP50', 'coco/segm_{}_precision_50', 'coco/segm_mAP_50'),
    ('Dice', 'cmr/{}_dice', 'cmr/dice'),
    ('HD95 [mm]', 'cmr/{}_hd95_mm', 'cmr/hd95_mm'),
    ('HD95 [px]', 'cmr/{}_hd95_px', 'cmr/hd95_px'),
    ('3-D Dice', 'cmr/{}_dice_3d', 'cmr/dice_3d'),
    ('3-D HD95 [mm]', 'cmr/{}_hd95_mm_3d', 'cmr/hd95_mm_3d'),
    ('Missed', 'cmr/{}_missed', None),
    ('Spurious', 'cmr/{}_spurious', None),
)
NOTE = (
    'Dice and HD95 are means over slices, or over stacks of slices in 3-D. A slice where a '
    'structure is absent from prediction and annotation is not counted; where it is absent '
    'from one of them (missed or spurious), Dice is 0 and HD95 undefined.'
)


def class_table(figures: dict[str, float], classes: Sequence[str]) -> list[list]:
    """Rows of a table with a heading, one row per class and the mean; unknown figures are None.

    Args:
        figures: Metric values by key, of `FastCocoMetric` (with `classwise`) and `CMRMetric`.
    """
    columns = [
        (heading, key, mean)
        for heading, key, mean in COLUMNS
        if any(key.format(name) in figures for name in classes)
    ]
    rows = [['Class', *(heading for heading, _, _ in columns)]]
    for name in classes:
        rows.append([name, *(figures.get(key.format(name)) for _, key, _ in columns)])
    rows.append(['Mean', *(figures.get(mean) for _, _, mean in columns)])
    return rows


def clinical_table(figures: dict[str, float]) -> list[list]:
    """Rows of a table of clinical indices; the heading alone if there are none."""
    rows = [['Index', 'Unit', 'Bias', 'Lower limit', 'Upper limit']]
    for index, unit in INDEX_UNITS.items():
        if f'cmr/{index}_bias_{unit}' in figures:
            rows.append(
                [
                    index.replace('_', ' '),
                    '%' if unit == 'percent' else unit,
                    *(
                        figures[f'cmr/{index}_{what}_{unit}']
                        for what in ('bias', 'loa_lower', 'loa_upper')
                    ),
                ]
            )
    return rows


def to_markdown(rows: list[list]) -> str:
    """Numbers to three digits after the point, undefined ones as a dash."""
    cells = [[format_cell(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = [
        '| '
        + ' | '.join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        )
        + ' |'
        for row in cells
    ]
    lines.insert(
        1,
        '|'
        + '|'.join(
            '-' * (width + 2) if not i else '-' * (width + 1) + ':'
            for i, width in enumerate(widths)
        )
        + '|',
    )
    return '\n'.join(lines)


def format_cell(cell) -> str:
    if is_undefined(cell):
        return '-'
    return f'{cell:.3f}' if isinstance(cell, float) else str(cell)


def is_undefined(cell) -> bool:
    """Whether a figure is missing, NaN, or COCO's -1 for classes without any object."""
    return cell is None or isinstance(cell, float) and (math.isnan(cell) or cell == -1)


def describe(
    figures: dict[str, float], classes: Sequence[str], about: dict[str, object] | None = None
) -> str:
    """All tables as Markdown, after what they are of."""
    parts = ['\n'.join(list_items(about))] if about else []
    parts.append(to_markdown(class_table(figures, classes)))
    if any(key.startswith('cmr/') for key in figures):
        parts.append(NOTE)
    clinical = clinical_table(figures)
    if len(clinical) > 1:
        parts += [
            'Predicted minus reference, limits of agreement at 1.96 SD (Bland-Altman):',
            to_markdown(clinical),
        ]
    return '\n\n'.join(parts) + '\n'


def list_items(about: dict[str, object]) -> list[str]:
    """Lines of a Markdown list; texts by name, as findings by patient, are a list within."""
    lines = []
    for key, value in about.items():
        if isinstance(value, dict):
            lines.append(f'- {key}:')
            lines += [f'  - {name}: {"; ".join(texts)}' for name, texts in value.items()]
        else:
            lines.append(f'- {key}: {value}')
    return lines


def write_results(
    figures: dict[str, float],
    classes: Sequence[str],
    folder: Path,
    about: dict[str, object] | None = None,
) -> list[Path]:
    """Write the results of a test into `folder`.

    Args:
        figures: Metric values by key.
        about: What they are of: checkpoint, data set, number of slices, thresholds.

    Returns:
        `results.md` (all tables), `results.csv` (the table of classes) and `results.json` (all
        figures by key, null where undefined); with `about` also `results_about.json`.
    """
    paths = [folder / f'results.{ending}' for ending in ('md', 'csv', 'json')]
    with replacing_text(paths[0]) as file:
        file.write(describe(figures, classes, about))
    with replacing_text(paths[1]) as file:
        csv.writer(file).writerows(
            ['' if is_undefined(cell) else cell for cell in row]
            for row in class_table(figures, classes)
        )
    defined = {key: None if is_undefined(value) else value for key, value in figures.items()}
    with replacing_text(paths[2]) as file:
        json.dump(defined, file, indent=2, allow_nan=False)
    if about:
        paths.append(folder / 'results_about.json')
        with replacing_text(paths[-1]) as file:
            json.dump(about, file, indent=2)
    return paths
