"""What the tools of experiments have in common: arguments, Slurm, carrying out a plan."""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from swin_ext.experiments.errors import ExperimentError
from swin_ext.experiments.runs import Plan, execute, missing_runs

TOOLS = Path(__file__).parents[1] / '.mim' / 'tools'
CONFIGS = Path(__file__).parents[1] / '.mim' / 'configs'


def add_arguments(parser: argparse.ArgumentParser, one: str) -> None:
    """Add arguments that both tools have.

    Args:
        one: Name of the option that chooses one run, without dashes.
    """
    parser.add_argument('--out', type=Path, help='folder of the experiment (default: see above)')
    parser.add_argument(
        '--by',
        choices=['patient', 'image'],
        default='patient',
        help='what is held out and drawn as one (default: patient); image only where each is of '
        'another patient',
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as for mim train'
    )
    parser.add_argument(
        f'--{one}', type=int, dest='only', metavar='N', help='run this one alone, without tables'
    )
    parser.add_argument(
        '--gather', action='store_true', help='run nothing: tables of what is there'
    )
    parser.add_argument(
        '--slurm',
        metavar='OPTIONS',
        help='submit an array, one task each, by tools/slurm_train.sh with these options, as '
        '"-p gpu -t 4:00:00"; --gather makes the tables afterwards',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'slurm'], default='none', help=argparse.SUPPRESS
    )


def config_of_package(path: Path) -> Path:
    """The file, or that of this name among the configs of the package.

    Raises:
        ExperimentError: If there is neither.
    """
    for candidate in (path, CONFIGS / path):
        if candidate.is_file():
            return candidate
    raise ExperimentError(f'There is no config {path}, nor is there one of this name in {CONFIGS}.')


def carry_out(
    plan: Plan,
    out: Path,
    args: argparse.Namespace,
    tool: str,
    arguments: Sequence[str],
    gather: Callable[[], None],
    weights: str = 'last',
) -> None:
    """Run what `args` asks for, or submit it; then make the tables.

    Args:
        tool: Name of the script in `tools/`.
        arguments: Those with which a task of the array does its run, the config first, the option
            that chooses it last.
        gather: Makes the tables of what is finished.

    Raises:
        ExperimentError: If there is no such run.
    """
    if args.slurm is not None:
        submit(tool, shlex.split(args.slurm), out, arguments, len(plan.runs))
        return
    if args.only is not None:
        if not 0 <= args.only < len(plan.runs):
            raise ExperimentError(
                f'{arguments[-1]} {args.only}: there are {len(plan.runs)} runs, 0 to '
                f'{len(plan.runs) - 1}.'
            )
        execute([plan.runs[args.only]], out, args.launcher, weights)
        left = missing_runs(plan.runs, out)
        print(
            f'Still to be run: {", ".join(left)}.'
            if left
            else 'All are run: --gather makes tables.'
        )
        return
    if not args.gather:
        execute(plan.runs, out, args.launcher, weights)
    gather()


def submit(
    tool: str, options: Sequence[str], out: Path, arguments: Sequence[str], number: int
) -> None:
    """Submit an array of tasks that each do one run.

    Raises:
        ExperimentError: If it is not accepted.
    """
    command = ['bash', str(TOOLS / 'slurm_train.sh'), *options, '--array', f'0-{number - 1}']
    command += ['--work-dir', str(out), *arguments, '%a']
    done = subprocess.run(command, env=dict(os.environ, SCRIPT=str(TOOLS / f'{tool}.py')))
    if done.returncode:
        raise ExperimentError(
            f'--slurm {shlex.join(options)!r}: slurm_train.sh ended with status '
            f'{done.returncode}; what it says is above.'
        )
