"""Tables and pictures of a cross-validation."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from statistics import mean, stdev

from matplotlib.figure import Figure

from swin_ext.evaluation.results_table import COLUMNS, is_undefined, to_markdown
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.runs import Plan, Run, missing_runs
from swin_ext.utils.files import replacing, replacing_text

MAX_SHOWN = 8  # names of patients in a cell
SHOWN_FIRST = tuple(key for _, _, key in COLUMNS if key)  # means over classes


def write_folds_report(plan: Plan, out: Path, name: str) -> dict:
    """Write `cross_validation.md`, `.csv`, `.json` and `figures/`, and print the text.

    Returns:
        What the JSON file has: folds with their figures, and by figure `mean`, `sd` and `folds`,
        the number of folds where it is defined.

    Raises:
        ExperimentError: If no fold is finished.
    """
    finished = [run for run in plan.runs if run.is_finished(out)]
    missing = missing_runs(plan.runs, out)
    if not finished:
        raise ExperimentError(f'{out}: no fold is finished; to be run: {", ".join(missing)}.')
    figures = [run.results(out) for run in finished]
    keys = list(dict.fromkeys(key for of_fold in figures for key in of_fold))
    summary = {key: _summary([of_fold.get(key) for of_fold in figures]) for key in keys}
    content = dict(
        config=name,
        missing=missing,
        summary=summary,
        folds=[
            dict(run.about, name=run.name, figures=of_fold)
            for run, of_fold in zip(finished, figures)
        ],
    )
    text = _describe(content, finished, figures)
    with replacing_text(out / 'cross_validation.md') as file:
        file.write(text + '\n')
    with replacing_text(out / 'cross_validation.csv') as file:
        csv.writer(file).writerows(csv_rows(content))
    with replacing_text(out / 'cross_validation.json') as file:
        json.dump(content, file, indent=1, allow_nan=False)
    number = draw_figures(content, out / 'figures')
    print(
        f'{text}\n\nWritten to {out}: cross_validation.md, .csv, .json and {number} pictures in '
        'figures/'
    )
    return content


def csv_rows(content: dict) -> list[list]:
    """One row for each fold, then mean and sd, one column for each figure."""
    keys = list(content['summary'])
    rows = [['fold', 'train_images', 'test_images', 'patients', *keys]]
    for fold in content['folds']:
        values = [fold['figures'].get(key) for key in keys]
        rows.append(
            [
                fold['fold'],
                fold['train_images'],
                fold['test_images'],
                len(fold['held_out']),
                *('' if value is None else value for value in values),
            ]
        )
    for which in ('mean', 'sd'):
        values = [content['summary'][key][which] for key in keys]
        rows.append([which, '', '', '', *('' if value is None else value for value in values)])
    return rows


def draw_figures(content: dict, folder: Path) -> int:
    """A picture for each figure, its classes side by side; returns how many there are."""
    groups = group_by_figure(list(content['summary']))
    for name, keys in groups.items():
        with replacing(folder / f'{re.sub("[^A-Za-z0-9.-]+", "_", name)}.png') as file:
            _draw(content, name, keys).savefig(file, format='png')
    return len(groups)


def group_by_figure(keys: list[str]) -> dict[str, list[str]]:
    """Keys by that of the mean over classes: `cmr/dice` has `cmr/dice`, `cmr/LV_dice`, ...

    A class's key is that of a figure with the name of the class, and an underscore, in it. Where no
    mean has it, a key stands for itself.
    """
    parts = {key: key.partition('/')[::2] for key in keys}
    groups: dict[str, list[str]] = {}
    for key, (prefix, name) in parts.items():
        owners = [
            other
            for other, (other_prefix, mean_name) in parts.items()
            if other != key
            and prefix == other_prefix
            and (
                name.endswith(f'_{mean_name}')
                or _coco_name(mean_name) is not None
                and re.fullmatch(_coco_name(mean_name), name)
            )
        ]
        # cmr/LV_dice_3d ends with that of cmr/dice_3d, not of cmr/dice.
        owner = max(owners, key=len, default=key)
        groups.setdefault(owner, []).append(key)
    return {owner: sorted(of, key=lambda key: key != owner) for owner, of in groups.items()}


def _coco_name(mean_name: str) -> str | None:
    """Pattern of the keys of classes that `FastCocoMetric` has a mean of under this name."""
    found = re.fullmatch(r'(bbox|segm)_mAP(_50)?', mean_name)
    return found and f'{found[1]}_.+_precision{found[2] or ""}'


def _draw(content: dict, name: str, keys: list[str]) -> Figure:
    figure = Figure(figsize=(1.5 + 1.1 * max(len(keys), 3), 3.6), dpi=80)
    ax = figure.subplots()
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.28, top=0.9)
    for place, key in enumerate(keys):
        values = [
            (fold['fold'], fold['figures'].get(key))
            for fold in content['folds']
            if fold['figures'].get(key) is not None
        ]
        offsets = [place + 0.12 * (2 * n / max(len(values) - 1, 1) - 1) for n in range(len(values))]
        ax.plot(offsets, [value for _, value in values], 'o', color='#56B4E9', markersize=5)
        for offset, (fold, value) in zip(offsets, values):
            ax.annotate(str(fold), (offset, value), (4, 3), textcoords='offset points', fontsize=7)
        summary = content['summary'][key]
        if summary['mean'] is not None:
            ax.errorbar(
                place + 0.3,
                summary['mean'],
                summary['sd'] or 0,
                fmt='_',
                color='#D55E00',
                capsize=4,
            )
    labels = [key.partition('/')[2] for key in keys]
    ax.set_xticks(range(len(keys)), labels, rotation=20, ha='right', fontsize=8)
    ax.set_xlim(-0.5, len(keys) - 0.3)
    ax.set_title(f'{name}: folds by number; mean and sd', fontsize=9)
    ax.grid(axis='y', color='0.9')
    ax.spines[['top', 'right']].set_visible(False)
    return figure


def _summary(values: list[float | None]) -> dict:
    defined = [float(value) for value in values if not is_undefined(value)]
    defined = [value for value in defined if math.isfinite(value)]
    return dict(
        mean=mean(defined) if defined else None,
        sd=stdev(defined) if len(defined) > 1 else None,
        folds=len(defined),
    )


def _describe(content: dict, runs: list[Run], figures: list[dict]) -> str:
    names = [run.name.replace('fold_', 'Fold ') for run in runs]
    about = [['Fold', 'Trained on [images]', 'Tested on [images]', 'Patients', 'Held out']]
    for run in runs:
        held_out = run.about['held_out']
        shown = ', '.join(held_out[:MAX_SHOWN]) + (', ...' if len(held_out) > MAX_SHOWN else '')
        about.append(
            [
                run.about['fold'],
                run.about['train_images'],
                run.about['test_images'],
                len(held_out),
                shown,
            ]
        )
    keys = sorted(content['summary'], key=lambda key: key not in SHOWN_FIRST)
    rows = [['Figure', 'Mean', 'SD', *names]]
    for key in keys:
        summary = content['summary'][key]
        values = [of_fold.get(key) for of_fold in figures]
        rows.append([key, summary['mean'], summary['sd'], *values])
    parts = [f'# Cross-validation of {content["config"]}: {len(runs)} folds']
    if content['missing']:
        parts.append(f'**Missing**: {", ".join(content["missing"])}')
    parts += [
        to_markdown(about),
        to_markdown(rows),
        'SD is that over folds (n - 1), which differ in patients; a dash is undefined.',
    ]
    return '\n\n'.join(parts)
