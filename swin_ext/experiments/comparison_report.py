"""Tables and a picture of configs that were compared."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from swin_ext.engine.hooks.budget_hook import COST_FILE
from swin_ext.evaluation.results_table import to_markdown
from swin_ext.experiments.budget import Budget
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.figures import TestFigures, mean_of_finite
from swin_ext.experiments.runs import Plan, Run, missing_runs
from swin_ext.experiments.statistics import bootstrap_interval, holm, paired_test
from swin_ext.experiments.worker import TEST
from swin_ext.utils.files import replacing, replacing_text

FIGURES = ('mAP', 'AP50', 'Dice', 'HD95')
COSTS = ('iterations', 'seconds_per_iteration', 'peak_memory_mib', 'parameters')
SIGNIFICANT = 0.05
NOTE = (
    'mAP and AP50 are of masks; Dice and HD95 means over slices, then over classes. In brackets: '
    'intervals of 95 % by bootstrap over {unit}s and seeds, which are drawn anew together. Paired '
    'tests: each figure of each {unit} alone, mean over seeds; sign-flip permutation test of the '
    'mean difference, two-sided; Holm corrects for all pairs of configs in a figure. With less '
    'than 6 {unit}s, no difference can reach p < 0.05.'
)
ONE_UNIT = (
    '**One {unit} was tested**: intervals tell of seeds alone, and nothing can be said of other '
    '{unit}s. Take --folds.'
)


def write_comparison(plan: Plan, out: Path, budget: Budget, by: str) -> dict:
    """Write `comparison.md`, `.csv`, `.json` and `.png`, and print the table.

    Returns:
        What the JSON file has.

    Raises:
        ExperimentError: If no config has a seed that is finished in all folds.
    """
    missing = missing_runs(plan.runs, out)
    complete = complete_seeds(plan.runs, out)
    if not complete:
        raise ExperimentError(f'{out}: nothing to compare yet; to be run: {", ".join(missing)}.')
    content = dict(
        budget=budget.describe(),
        unit=by,
        missing=missing,
        configs={name: describe_config(seeds, out, by) for name, seeds in complete.items()},
    )
    first = next(iter(content['configs'].values()))
    units = first['units']
    content['tests'] = compare_pairs(content['configs'])
    rows = main_table(content)
    text = '\n\n'.join(
        [
            f'# Comparison: {len(complete)} configs\n\n- budget of each training: '
            f'{content["budget"]}\n- tested on {len(units)} {by}s; '
            + ', '.join(f'{n}: {len(c["seeds"])} seeds' for n, c in content['configs'].items())
            + (f'\n- **missing**: {", ".join(missing)}' if missing else ''),
            to_markdown(rows),
            'Dice by class:',
            to_markdown(class_table(content)),
            'Paired tests (difference: second minus first):',
            to_markdown(test_table(content)),
            verdict(content),
            NOTE.format(unit=by),
            *([ONE_UNIT.format(unit=by)] if len(units) == 1 else []),
        ]
    )
    with replacing_text(out / 'comparison.md') as file:
        file.write(text + '\n')
    write_csv(content, out / 'comparison.csv')
    with replacing_text(out / 'comparison.json') as file:
        json.dump(_without_nan(content), file, indent=1, allow_nan=False)
    draw_comparison(content, out / 'comparison.png')
    print(f'{text}\n\nWritten to {out}: comparison.md, .csv, .json, .png')
    return content


def complete_seeds(runs: Sequence[Run], out: Path) -> dict[str, dict[int, list[Run]]]:
    """By config and seed, the runs of all folds, where they are all finished."""
    groups: dict[str, dict[int, list[Run]]] = {}
    for run in runs:
        groups.setdefault(run.about['config'], {}).setdefault(run.about['seed'], []).append(run)
    complete = {
        name: {s: r for s, r in seeds.items() if all(run.is_finished(out) for run in r)}
        for name, seeds in groups.items()
    }
    return {name: seeds for name, seeds in complete.items() if seeds}


def describe_config(seeds: dict[int, list[Run]], out: Path, by: str) -> dict:
    """Figures with intervals, of each seed and of each patient, and what a training cost."""
    tests = {
        seed: TestFigures(
            [(run.folder(out) / TEST, Path(run.about['annotations'])) for run in runs], by
        )
        for seed, runs in seeds.items()
    }
    some = next(iter(tests.values()))
    costs = [
        json.loads((run.folder(out) / COST_FILE).read_text())
        for runs in seeds.values()
        for run in runs
    ]
    figures = {}
    for name in (*FIGURES, *(f'Dice {each}' for each in some.classes)):
        of_seeds = [float(test.figure(name)[0]) for test in tests.values()]
        low, high = bootstrap_interval(
            [
                lambda weights, test=test, name=name: test.figure(name, weights)
                for test in tests.values()
            ],
            len(some.units),
            np.random.default_rng(0),
        )
        defined = [value for value in of_seeds if math.isfinite(value)]
        figures[name] = dict(
            mean=float(np.mean(defined)) if defined else math.nan,
            low=low,
            high=high,
            sd_over_seeds=float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan,
            of_seeds=of_seeds,
            of_units=mean_of_finite(
                np.stack([test.by_unit(name) for test in tests.values()])
            ).tolist(),
        )
    return dict(
        seeds=list(seeds),
        units=some.units,
        classes=list(some.classes),
        distance=some.distance,
        figures=figures,
        cost={key: float(np.mean([cost[key] for cost in costs])) for key in COSTS},
    )


def compare_pairs(configs: dict[str, dict]) -> list[dict]:
    """Paired tests of all pairs of configs, adjusted together in each of the four figures."""
    tests = []
    for name in FIGURES:
        of_figure = []
        for (first, a), (second, b) in combinations(configs.items(), 2):
            values = [np.array(each['figures'][name]['of_units'], float) for each in (a, b)]
            difference, p, number = paired_test(*values)
            of_figure.append(
                dict(
                    figure=name,
                    first=first,
                    second=second,
                    difference=difference,
                    p=p,
                    units=number,
                )
            )
        for test, adjusted in zip(of_figure, holm([test['p'] for test in of_figure])):
            test['p_holm'] = adjusted
        tests += of_figure
    return tests


def main_table(content: dict) -> list[list]:
    """Rows with a heading: the figures with their intervals, and what they cost."""
    distance = next(iter(content['configs'].values()))['distance']
    unit = distance.rpartition('_')[2]
    heading = ['Config', 'mAP', 'AP50', 'Dice', f'HD95 [{unit}]']
    rows = [[*heading, 'Iterations', 's/step', 'Memory [MiB]', 'Parameters']]
    for name, config in content['configs'].items():
        cost = config['cost']
        rows.append(
            [
                name,
                *(_with_interval(config['figures'][figure]) for figure in FIGURES),
                f'{cost["iterations"]:.0f}',
                f'{cost["seconds_per_iteration"]:.3f}',
                f'{cost["peak_memory_mib"]:.0f}',
                f'{cost["parameters"]:,.0f}',
            ]
        )
    return rows


def class_table(content: dict) -> list[list]:
    classes = next(iter(content['configs'].values()))['classes']
    rows = [['Config', *classes]]
    for name, config in content['configs'].items():
        rows.append([name, *(_with_interval(config['figures'][f'Dice {c}']) for c in classes)])
    return rows


def test_table(content: dict) -> list[list]:
    unit = content['unit'].capitalize()
    rows = [['Figure', 'First', 'Second', 'Difference', 'p', 'p (Holm)', f'{unit}s']]
    keys = ('figure', 'first', 'second', 'difference', 'p', 'p_holm', 'units')
    return rows + [[test[key] for key in keys] for test in content['tests']]


def verdict(content: dict) -> str:
    """Which config has the highest Dice, and from which it differs beyond chance."""
    configs = content['configs']
    means = {name: config['figures']['Dice']['mean'] for name, config in configs.items()}
    means = {name: value for name, value in means.items() if math.isfinite(value)}
    if not means:
        return 'No config has a Dice.'
    best = max(means, key=means.get)
    if len(configs) == 1:
        return f'{best}: Dice {means[best]:.3f}.'
    beaten = [
        test['second'] if test['first'] == best else test['first']
        for test in content['tests']
        if test['figure'] == 'Dice'
        and best in (test['first'], test['second'])
        and test['p_holm'] < SIGNIFICANT
    ]
    level = f'adjusted p < {SIGNIFICANT}'
    return (
        f'**{best} has the highest Dice, {means[best]:.3f}**; '
        + (f'beyond chance ({level}) against {", ".join(beaten)}' if beaten else 'against none')
        + ('.' if beaten else f' beyond chance ({level}).')
    )


def write_csv(content: dict, path: Path) -> None:
    """One row for each config and figure."""
    with replacing_text(path) as file:
        writer = csv.writer(file)
        writer.writerow(['config', 'figure', 'mean', 'low', 'high', 'sd_over_seeds', 'seeds'])
        for name, config in content['configs'].items():
            for figure, values in config['figures'].items():
                cells = [values[key] for key in ('mean', 'low', 'high', 'sd_over_seeds')]
                cells = [f'{cell:.6g}' if math.isfinite(cell) else '' for cell in cells]
                writer.writerow([name, figure, *cells, len(config['seeds'])])
            for key, value in config['cost'].items():
                writer.writerow([name, key, f'{value:.6g}', '', '', '', len(config['seeds'])])


def draw_comparison(content: dict, path: Path) -> None:
    """A panel for each figure: means with intervals, and a point for each seed."""
    configs = content['configs']
    figure = Figure(figsize=(11, 1.8 + 0.9 * len(configs)), dpi=110, layout='constrained')
    axes = figure.subplots(1, len(FIGURES), sharey=True)
    for ax, name in zip(axes, FIGURES):
        for place, config in enumerate(configs.values()):
            values = config['figures'][name]
            ax.plot([values['low'], values['high']], [place, place], color='#0072B2', linewidth=2)
            ax.plot(values['mean'], place, 'o', color='#0072B2', markersize=7)
            ax.plot(
                values['of_seeds'],
                [place + 0.18] * len(values['of_seeds']),
                '|',
                color='#D55E00',
                markersize=8,
            )
        unit = next(iter(configs.values()))['distance'].rpartition('_')[2]
        ax.set_xlabel(f'HD95 [{unit}], less is better' if name == 'HD95' else name)
        ax.grid(axis='x', color='0.9')
        ax.spines[['top', 'right']].set_visible(False)
    axes[0].set_yticks(range(len(configs)), list(configs))
    axes[0].set_ylim(len(configs) - 0.4, -0.6)
    figure.suptitle(f'{content["budget"]} each; points: means, lines: 95 %, marks: seeds')
    with replacing(path) as file:
        figure.savefig(file, format='png')


def _with_interval(values: dict) -> str:
    if not math.isfinite(values['mean']):
        return '-'
    digits = 3 if values['mean'] < 2 else 1
    return f'{values["mean"]:.{digits}f} [{values["low"]:.{digits}f}, {values["high"]:.{digits}f}]'


def _without_nan(value):
    """The same in JSON, which has no NaN: null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
