"""Several configs trained and tested with equal budget, data and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from swin_ext.experiments.budget import Budget, parse_budget
from swin_ext.experiments.command import CONFIGS, add_arguments, carry_out, config_of_package
from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.runs import Plan, Run, check_plan, write_plan
from swin_ext.experiments.worker import CONFIG, TEST
from swin_ext.utils.hashes import sha256_of

BASELINES = {
    'monai-basicunet': 'unet/unet_monai-basic_cmr.py',
    'monai-dynunet': 'unet/unet_monai-dynunet_cmr.py',
}
DESCRIPTION = """Train and test several configs with equal budget, data and seeds, and compare them.

Only iterations and the loading of their data count; neither the start of the program nor
validations, of which there is one, at the end. Learning rate schedules are stretched to the budget:
at a fraction of it they stand where they would at this fraction of the config's own length. Tested
are the weights at the end of the training.

With --folds, each config is trained once for each fold and seed, without the patients it is tested
on, and figures are of all patients. Otherwise it is trained and tested on its own splits, which
must be the same for all configs.

Tables and a picture: mask AP, AP50, Dice and HD95 with intervals of 95 % (bootstrap over patients
and seeds), time, memory, parameters; and whether two configs differ on the same patients (sign-flip
permutation test, Holm's correction). Written to OUT (work_dirs/comparison) as comparison.md, .csv,
.json and .png. Runs that are finished stay when it is started again; others go on."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', type=Path, metavar='CONFIG')
    parser.add_argument(
        '--baseline',
        action='append',
        default=[],
        metavar='NAME',
        help=f'compare with a U-Net of MONAI, too: {" or ".join(BASELINES)}; may be repeated',
    )
    parser.add_argument(
        '--budget', required=True, help='for each training: 90s, 20min, 1.5h or 500it'
    )
    parser.add_argument(
        '--clock',
        choices=['wall', 'cpu'],
        default='wall',
        help='what counts of a time: wall time (default), or processor time of the training '
        'process, for machines shared with others (data loaders then have no workers)',
    )
    parser.add_argument('--seeds', type=int, default=3, help='trainings of each (default: 3)')
    parser.add_argument('--folds', type=int, help='cross-validate by patient')
    add_arguments(parser, 'run')
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Do what the command line says; see `DESCRIPTION`.

    Raises:
        UserError: If something of it is wrong.
    """
    args = parse(argv)
    budget = parse_budget(args.budget, args.clock)
    if args.seeds < 1:
        raise ExperimentError(f'--seeds {args.seeds} must be at least 1.')
    configs = named_configs(args.configs, args.baseline)
    out = args.out or Path('work_dirs', 'comparison')
    plan = prepare(configs, budget, args, out)

    def gather() -> None:
        from swin_ext.experiments.comparison_report import write_comparison

        write_comparison(plan, out, budget, args.by)

    carry_out(plan, out, args, 'compare', _arguments_of_task(configs, args, out), gather)


def named_configs(paths: Sequence[Path], baselines: Sequence[str]) -> dict[str, Path]:
    """Files by name of the config.

    Raises:
        ExperimentError: If one is missing, or two have one name.
    """
    unknown = [name for name in baselines if name not in BASELINES]
    if unknown:
        raise ExperimentError(
            f'--baseline {unknown[0]}: there is none of this name, but {", ".join(BASELINES)}.'
        )
    configs = {}
    for path in [*paths, *(CONFIGS / BASELINES[name] for name in baselines)]:
        path = config_of_package(path)
        if path.stem in configs:
            raise ExperimentError(
                f'{configs[path.stem]} and {path} have the same name, which stands for a config in '
                'tables and folders. Give each once, or rename one of the files.'
            )
        configs[path.stem] = path
    if not configs:
        raise ExperimentError('Give at least one CONFIG or --baseline.')
    return configs


def prepare(configs: dict[str, Path], budget: Budget, args: argparse.Namespace, out: Path) -> Plan:
    """The plan in `out`, with the configs of all runs; made if there is none.

    Raises:
        ExperimentError: If the configs have different data, or `out` another plan.
    """
    from swin_ext.experiments import run_configs as rc

    loaded = {name: rc.load_config(path, args.cfg_options) for name, path in configs.items()}
    splits = ('train', 'val') if args.folds else ('train', 'test')
    files = {
        name: {split: rc.existing_files(cfg, [split]) for split in splits}
        for name, cfg in loaded.items()
    }
    digests = {
        name: {split: [sha256_of(path) for path in paths] for split, paths in of.items()}
        for name, of in files.items()
    }
    first = next(iter(configs))
    for name, of_config in digests.items():
        for split in splits:
            if of_config[split] != digests[first][split]:
                raise ExperimentError(
                    f'{first} and {name} have different annotations for {split}: '
                    f'{_names(files[first][split])} and {_names(files[name][split])}. Configs can '
                    'be compared on the same data alone; set it for all by --cfg-options '
                    'data_root=...'
                )
    made_of = {
        **{f'config {name}': rc.fingerprint(cfg) for name, cfg in loaded.items()},
        **{f'annotations for {split}': ' '.join(digests[first][split]) for split in splits},
        'budget': budget.describe(),
        'seeds': str(args.seeds),
        'folds': str(args.folds or 'none'),
        'by': args.by,
    }
    plan = check_plan(out, made_of)
    if plan is not None:
        return plan
    tested = _tested(files[first], args, out)
    runs = []
    # Seeds last, so that there is something to compare early.
    for seed, name, (fold, (train, test)) in product(range(args.seeds), loaded, tested.items()):
        suffix = '' if fold is None else f'_fold{fold}'
        about = dict(config=name, seed=seed, fold=fold, annotations=str(test.resolve()))
        run = Run(f'{name}_seed{seed}{suffix}', about)
        cfg = rc.copy_of(loaded[name])
        if fold is not None:
            rc.use_fold(cfg, train, test)
        rc.use_seed(cfg, seed)
        rc.use_budget(cfg, budget)
        rc.keep_predictions(cfg, run.folder(out) / TEST)
        rc.write_config(cfg, run.folder(out) / CONFIG)
        runs.append(run)
    plan = Plan(made_of, tuple(runs))
    write_plan(out, plan)
    return plan


def _tested(
    files: dict[str, list[Path]], args: argparse.Namespace, out: Path
) -> dict[int | None, tuple[Path | None, Path]]:
    """Annotation files of training and test by fold; None without folds."""
    from swin_ext.coco.reading import read_coco_file
    from swin_ext.experiments.folds import join_annotations, unit_of_images, write_folds

    if args.folds:
        once = {sha256_of(path): path for paths in files.values() for path in paths}
        content = join_annotations(list(once.values()))
        folds = write_folds(content, args.folds, 0, args.by, out / 'folds')
        return {number: (fold.train, fold.val) for number, fold in enumerate(folds)}
    if len(files['test']) > 1:
        raise ExperimentError(
            f'The test joins {len(files["test"])} annotation files; give configs with one.'
        )
    (test,) = files['test']
    images = read_coco_file(test, text_ids=True).content['images']
    unit_of_images(images, args.by, str(test))  # unknown patients are refused before the training
    return {None: (None, test)}


def _names(paths: Sequence[Path]) -> str:
    return ', '.join(map(str, paths))


def _arguments_of_task(configs: dict[str, Path], args: argparse.Namespace, out: Path) -> list[str]:
    """What a task of an array is called with, but for the number of its run at the end."""
    arguments = [str(path) for path in configs.values()]
    arguments += ['--budget', args.budget, '--clock', args.clock, '--seeds', str(args.seeds)]
    arguments += ['--folds', str(args.folds)] if args.folds else []
    arguments += ['--by', args.by, '--out', str(out)]
    arguments += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    return [*arguments, '--run']
