"""A config trained and tested once for each fold of its patients."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from swin_ext.experiments.command import add_arguments, carry_out, config_of_package
from swin_ext.experiments.runs import Plan, Run, check_plan, write_plan
from swin_ext.experiments.worker import CONFIG
from swin_ext.utils.hashes import sha256_of

DESCRIPTION = """Train and test a config once for each fold of its patients.

The images of the config's train and val annotation files are split into folds by patient. Each
fold is a training of its own, from the config's weights and not from those of another fold, and is
tested on the patients that it has not seen. Its test_dataloader stands for these, whatever file it
named: keep patients for a last test out of both files.

Tables and pictures of every figure of the tests, by fold, with mean and standard deviation over
folds: OUT/cross_validation.md, .csv, .json and OUT/figures/. Folds that are finished stay when it
is started again with the same data and arguments, and an interrupted one goes on."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=Path, metavar='CONFIG')
    parser.add_argument('--folds', type=int, required=True, help='number of folds')
    parser.add_argument(
        '--seed', type=int, default=0, help='of the split and of each training (default: 0)'
    )
    parser.add_argument(
        '--weights',
        choices=['last', 'best'],
        default='last',
        help='tested are those at the end (default), or of the best validation: chosen on the '
        'patients that they are tested on, so that figures come out too good',
    )
    add_arguments(parser, 'fold')
    return parser.parse_args(argv)


def main(argv: Sequence[str]) -> None:
    """Do what the command line says; see `DESCRIPTION`.

    Raises:
        UserError: If something of it is wrong.
    """
    args = parse(argv)
    config = config_of_package(args.config)
    out = args.out or Path('work_dirs', f'{config.stem}_folds')
    plan = prepare(config, args, out)

    def gather() -> None:
        from swin_ext.experiments.fold_report import write_folds_report

        write_folds_report(plan, out, config.stem)

    arguments = [str(config), '--folds', str(args.folds), '--seed', str(args.seed)]
    arguments += ['--weights', args.weights, '--by', args.by, '--out', str(out)]
    arguments += ['--cfg-options', *args.cfg_options] if args.cfg_options else []
    carry_out(
        plan, out, args, 'cross_validate', [*arguments, '--fold'], gather, weights=args.weights
    )


def prepare(config: Path, args: argparse.Namespace, out: Path) -> Plan:
    """The plan in `out`, with annotation files and configs of all folds; made if there is none.

    Raises:
        ExperimentError: If patients are unknown, or `out` has another plan.
        ArgumentError: If there are fewer patients than folds.
    """
    from swin_ext.experiments import run_configs as rc
    from swin_ext.experiments.folds import join_annotations, write_folds

    cfg = rc.load_config(config, args.cfg_options)
    files = rc.existing_files(cfg, ['train', 'val'])
    digests = {sha256_of(path): path for path in files}
    made_of = {
        'config': rc.fingerprint(cfg),
        'annotations': ' '.join(sorted(digests)),
        'folds': str(args.folds),
        'seed': str(args.seed),
        'by': args.by,
        'weights': args.weights,
    }
    plan = check_plan(out, made_of)
    if plan is not None:
        return plan
    content = join_annotations(list(digests.values()))
    runs = []
    for number, fold in enumerate(write_folds(content, args.folds, args.seed, args.by, out)):
        about = dict(
            fold=number,
            train_images=fold.num_train_images,
            test_images=fold.num_val_images,
            held_out=list(fold.held_out),
        )
        run = Run(f'fold_{number}', about)
        of_fold = rc.copy_of(cfg)
        rc.use_fold(of_fold, fold.train, fold.val)
        rc.use_seed(of_fold, args.seed)
        rc.keep_results(of_fold)
        rc.write_config(of_fold, run.folder(out) / CONFIG)
        runs.append(run)
    plan = Plan(made_of, tuple(runs))
    write_plan(out, plan)
    return plan
