"""Reads the logs of a training run and draws its curves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from swin_ext.utils.errors import UserError
from swin_ext.visualization.curves import draw_curves

LOG_PATTERN = '*/vis_data/scalars.json'


class LogError(UserError, ValueError):
    """A log that is none of MMEngine's."""


class NoLogError(UserError, FileNotFoundError):
    """A folder without a training log."""


def read_log(path: Path) -> list[dict]:
    """Read one scalar log of MMEngine's LocalVisBackend.

    Training lines count ``step`` in iterations. Validation lines do so too or, by default, in
    epochs, which are never more than the iterations logged before: the larger of the two is taken,
    exact in the first case and early by less than the logging interval in the second.

    Returns:
        The scalars of each line, all with ``step`` in iterations. Empty if the run did not train.

    Raises:
        LogError: a line other than the last is no JSON object with a step.
    """
    lines = path.read_text().splitlines()
    records, iteration = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                print(
                    f'{path}, line {number}: cut short, skipped (is the run still writing, or '
                    'was it killed?)',
                    file=sys.stderr,
                )
                continue
            raise LogError(
                f'{path}, line {number}: not JSON ({error}); is this a scalar log of MMEngine?'
            ) from error
        if not isinstance(record, dict) or 'step' not in record:
            raise LogError(
                f'{path}, line {number}: no JSON object with a step; is this a scalar '
                'log of MMEngine?'
            )
        if 'loss' in record:
            iteration = record['step']
        records.append({**record, 'step': max(record['step'], iteration)})
    return records if iteration else []


def read_work_dir(work_dir: Path) -> list[dict]:
    """Read the logs of all runs in ``work_dir``, joined in the order of their time stamps.

    A later run replaces what earlier ones logged from its own first step on: all of it if it
    started afresh, the iterations lost after the last checkpoint if it resumed.

    Raises:
        NoLogError: there is no log with training lines.
    """
    if not work_dir.is_dir():
        raise NoLogError(f'{work_dir} is not a folder')
    records = []
    logs = sorted(work_dir.glob(LOG_PATTERN))
    for log in logs:
        run = read_log(log)
        if run:
            records = [record for record in records if record['step'] < run[0]['step']] + run
    if not records:
        raise NoLogError(
            f'no training log in {work_dir}: {len(logs)} files match '
            f'{LOG_PATTERN}, none with a training line; give the work_dir of a '
            'training run that has logged at least once'
        )
    return records


def plot_curves(work_dir: Path, out: Path | None = None) -> Path:
    """Draw the curves of `work_dir` into `out`, by default its `curves.png`; return the file.

    Raises:
        NoLogError: If there is no training log.
        LogError: If a line is none.
    """
    records = read_work_dir(work_dir)
    out = out or work_dir / 'curves.png'
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(records, work_dir.resolve().name).savefig(out, format='png')
    return out
