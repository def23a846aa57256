"""Tables and pictures of one evaluation by `CMRMetric`."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swin_ext.evaluation.clinical import INDEX_UNITS, bland_altman
from swin_ext.evaluation.cmr_comparison import CMRReport
from swin_ext.utils.optional import require


def write_report(report: CMRReport, classes: Sequence[str], folder: Path) -> list[Path]:
    """Write what `CMRMetric.write_report` promises."""
    require('matplotlib', 'The report of CMRMetric')
    folder.mkdir(parents=True, exist_ok=True)
    files = [
        write_slices(report, folder / 'cmr_slices.csv'),
        draw_boxplots(report, classes, folder / 'cmr_boxplots.png'),
    ]
    if report.stacks:
        files.append(write_patients(report, folder / 'cmr_patients.csv'))
    if any(report.indices.values()):
        files.append(draw_bland_altman(report, folder / 'cmr_bland_altman.png'))
    return files


def write_slices(report: CMRReport, path: Path) -> Path:
    """One row per image and class."""
    rows = [
        {
            f'{key}_{report.unit}' if key in ('hd95', 'assd') else key: value
            for key, value in row.items()
        }
        for row in report.slices
    ]
    return write_csv(rows, path)


def write_patients(report: CMRReport, path: Path) -> Path:
    """One row per patient: 3-D scores and volumes by class and phase, indices, findings."""
    patients = {}
    for row in report.stacks:
        columns = patients.setdefault(row['patient_id'], dict(patient_id=row['patient_id']))
        prefix = f'{row["class"]}_{row["phase"]}' if row['phase'] else row['class']
        for key in ('dice', 'jaccard', 'hd95', 'assd', 'volume_ml', 'volume_ml_reference'):
            if key in row:
                unit = '_mm' if key in ('hd95', 'assd') else ''
                columns[f'{prefix}_{key}{unit}'] = row[key]
    for patient, indices in report.indices.items():
        for index, (pred, reference) in indices.items():
            patients[patient][f'{index}_{INDEX_UNITS[index]}'] = pred
            patients[patient][f'{index}_{INDEX_UNITS[index]}_reference'] = reference
    for patient, columns in patients.items():
        columns['findings'] = '; '.join(report.findings.get(patient, ()))
    return write_csv(list(patients.values()), path)


def write_csv(rows: list[dict], path: Path) -> Path:
    """Write rows under the union of their keys; None and NaN are empty cells."""
    header = list(dict.fromkeys(key for row in rows for key in row))
    with open(path, 'w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, header, restval='')
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    key: ''
                    if value is None or isinstance(value, float) and math.isnan(value)
                    else f'{value:.6g}'
                    if isinstance(value, float)
                    else value
                    for key, value in row.items()
                }
            )
    return path


def new_figure(panels: int, columns: int = 4):
    """A figure and its axes, drawn without a display and beside pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(panels, columns)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(4 * columns, 3.6 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False).flat


def draw_boxplots(report: CMRReport, classes: Sequence[str], path: Path) -> Path:
    """Dice and HD95 by class, over slices and over stacks; each case is a dot."""
    panels = [
        ('Dice per slice', report.slices, 'dice'),
        (f'HD95 per slice [{report.unit}]', report.slices, 'hd95'),
    ]
    if report.stacks:
        panels.append(('Dice per stack (3-D)', report.stacks, 'dice'))
    if any('volume_ml' in row for row in report.stacks):
        panels.append(('HD95 per stack (3-D) [mm]', report.stacks, 'hd95'))
    figure, axes = new_figure(len(panels))
    for axis, (title, rows, score) in zip(axes, panels):
        values = [
            [row[score] for row in rows if row['class'] == name and not math.isnan(row[score])]
            for name in classes
        ]
        axis.boxplot(values, positions=range(len(classes)), widths=0.6, showfliers=False)
        for position, of_class in enumerate(values):
            spread = np.linspace(-0.2, 0.2, len(of_class)) if len(of_class) > 1 else [0.0]
            axis.plot(
                position + np.asarray(spread)[: len(of_class)],
                of_class,
                '.',
                alpha=0.4,
                markersize=4,
            )
        axis.set_xticks(
            range(len(classes)),
            [f'{name}\nn={len(of_class)}' for name, of_class in zip(classes, values)],
        )
        axis.set_title(title)
        axis.set_ylim(bottom=0, top=1.02 if score == 'dice' else None)
        axis.grid(axis='y', alpha=0.3)
    figure.savefig(path, dpi=120)
    return path


def draw_bland_altman(report: CMRReport, path: Path) -> Path:
    """Difference over mean of prediction and reference, one panel per clinical index."""
    indices = [
        index
        for index in INDEX_UNITS
        if any(index in of_patient for of_patient in report.indices.values())
    ]
    figure, axes = new_figure(len(indices))
    axes = list(axes)
    for axis in axes[len(indices) :]:
        axis.set_axis_off()
    for axis, index in zip(axes, indices):
        pred, reference = np.array(
            [of_patient[index] for of_patient in report.indices.values() if index in of_patient]
        ).T
        unit = '%' if INDEX_UNITS[index] == 'percent' else INDEX_UNITS[index]
        axis.plot((pred + reference) / 2, pred - reference, 'o', alpha=0.6, markersize=5)
        bias, lower, upper = bland_altman(pred, reference)
        for value, style, name in (
            (bias, '-', 'bias'),
            (lower, '--', '-1.96 SD'),
            (upper, '--', '+1.96 SD'),
        ):
            if not math.isnan(value):
                axis.axhline(value, linestyle=style, color='black', linewidth=1)
                axis.annotate(
                    f'{name} {value:.1f}',
                    (1, value),
                    (-2, 2),
                    fontsize=8,
                    ha='right',
                    xycoords=axis.get_yaxis_transform(),
                    textcoords='offset points',
                )
        axis.set_title(f'{index.replace("_", " ")} (n={np.count_nonzero(~np.isnan(pred))})')
        axis.set_xlabel(f'mean of both [{unit}]')
        axis.set_ylabel(f'predicted - reference [{unit}]')
        axis.margins(0.1, 0.2)
    figure.savefig(path, dpi=120)
    return path
