"""The runs of an experiment: what it was planned as, which are finished, and running the rest."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from swin_ext.experiments.errors import ExperimentError, RunFailedError
from swin_ext.experiments.worker import FINISHED, TEST
from swin_ext.utils.files import replacing_text

PLAN, LOG = 'experiment.json', 'output.log'
SHOWN_LINES = 15  # of the log of a run that failed
FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # those that PreemptionHook handles


@dataclass(frozen=True)
class Run:
    """One training and its test.

    Attributes:
        name: Also that of its folder, below that of the experiment.
        about: What distinguishes it: config, seed, fold, numbers of images and patients.
    """

    name: str
    about: dict = field(default_factory=dict)

    def folder(self, out: Path) -> Path:
        return out / self.name

    def is_finished(self, out: Path) -> bool:
        return (out / self.name / FINISHED).is_file()

    def results(self, out: Path) -> dict[str, float]:
        """Figures of the test by key; None where undefined."""
        return json.loads((out / self.name / TEST / 'results.json').read_text())


@dataclass(frozen=True)
class Plan:
    """What an experiment is made of.

    Attributes:
        made_of: All that its figures depend on, by what it is: arguments, digests of configs and
            annotation files.
        runs: In their order.
    """

    made_of: dict[str, str]
    runs: tuple[Run, ...]


def check_plan(out: Path, made_of: dict[str, str]) -> Plan | None:
    """The plan of an experiment that was begun in a folder; None if there is none.

    Raises:
        ExperimentError: If it was made of something else.
    """
    path = out / PLAN
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        plan = Plan(content['made_of'], tuple(Run(**run) for run in content['runs']))
    except (ValueError, KeyError, TypeError) as error:
        raise ExperimentError(
            f'{path} is no plan of an experiment ({error!r}). Give another --out.'
        ) from error
    changed = [
        f'{name}: {_short(plan.made_of.get(name))} -> {_short(made_of.get(name))}'
        for name in [*plan.made_of, *(name for name in made_of if name not in plan.made_of)]
        if plan.made_of.get(name) != made_of.get(name)
    ]
    if changed:
        raise ExperimentError(
            f'{out} has an experiment of something else:\n  '
            + '\n  '.join(changed)
            + '\nGive what it was begun with, to go on with it, or another --out.'
        )
    return plan


def write_plan(out: Path, plan: Plan) -> None:
    with replacing_text(out / PLAN) as file:
        json.dump(asdict(plan), file, indent=1)


def execute(runs: Sequence[Run], out: Path, launcher: str = 'none', weights: str = 'last') -> None:
    """Train and test what is not finished, one after the other, and say how it goes.

    Raises:
        RunFailedError: At the first that fails; those behind it have not begun.
        SystemExit: If a run was told to end by a signal and has saved where it is.
    """
    left = [run for run in runs if not run.is_finished(out)]
    if len(left) < len(runs):
        _say(f'{len(runs) - len(left)} of {len(runs)} runs are finished already.')
    began = time.monotonic()
    for number, run in enumerate(left, 1):
        _say(f'[{number}/{len(left)}] {run.name}: training and test; log: {run.folder(out) / LOG}')
        before = time.monotonic()
        launch(run.folder(out), launcher, weights)
        now = time.monotonic()
        remaining = (now - began) / number * (len(left) - number)
        _say(
            f'[{number}/{len(left)}] {run.name}: finished in {_duration(now - before)}'
            + (f'; the others take about {_duration(remaining)}' if remaining else '')
        )


def launch(folder: Path, launcher: str, weights: str) -> None:
    """Run the worker in a process of its own; see `execute` for what is raised."""
    command = command_of(folder, launcher, weights)
    rank = os.environ.get('SLURM_PROCID', '0') if launcher == 'slurm' else '0'
    log = folder / (LOG if rank == '0' else f'rank_{rank}_{LOG}')
    with open(log, 'ab') as file:
        start = file.tell()
        with subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT) as process:
            with _forwarding(process):
                code = _wait(process)
    if code == 0 and (folder / FINISHED).is_file():
        return
    if code == os.EX_TEMPFAIL:  # PreemptionHook's
        _say(f'{folder.name} was told to end and has saved where it is; start again to go on.')
        raise SystemExit(code)
    if code < 0:
        raise SystemExit(128 - code)
    text = log.read_bytes()[start:].decode(errors='replace').strip().splitlines()
    raise RunFailedError(
        f'{folder.name} failed with status {code}. The end of {log}:\n  '
        + '\n  '.join(text[-SHOWN_LINES:])
        + '\nStart again when it is mended: what is finished stays, and it goes on from its last '
        'checkpoint.'
    )


def command_of(folder: Path, launcher: str, weights: str) -> list[str]:
    command = [sys.executable, '-u', '-m', 'swin_ext.experiments.worker', str(folder)]
    return [*command, '--launcher', launcher, '--weights', weights]


def _wait(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal tells both
        process.wait()
        raise


@contextlib.contextmanager
def _forwarding(process: subprocess.Popen) -> Iterator[None]:
    """Let a run be told what this process is told, and decide itself what to do about it."""
    previous = {
        number: signal.signal(number, lambda number, frame: process.send_signal(number))
        for number in FORWARDED
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def missing_runs(runs: Sequence[Run], out: Path) -> list[str]:
    """Names of runs that are not finished."""
    return [run.name for run in runs if not run.is_finished(out)]


def _say(text: str) -> None:
    print(text, flush=True)


def _short(value: str | None) -> str:
    return 'nothing' if value is None else value if len(value) <= 40 else f'{value[:12]}...'


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes} min' if hours else f'{minutes} min {seconds} s'
