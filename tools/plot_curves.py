"""Plot the losses, the learning rate, the mAP and the throughput of a training run.

`HistoryHook` draws the same at each validation; this is for runs without it, or on another machine.

    python tools/plot_curves.py work_dirs/mask_rcnn_swin-s_cmr
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from swin_ext.visualization.curves import draw_curves

LOG_PATTERN = '*/vis_data/scalars.json'


def read_log(path: Path) -> list[dict]:
    """Read one scalar log of MMEngine's LocalVisBackend.

    Training lines count ``step`` in iterations. Validation lines do so too or, by default, in
    epochs, which are never more than the iterations logged before: the larger of the two is taken,
    exact in the first case and early by less than the logging interval in the second.

    Returns:
        The scalars of each line, all with ``step`` in iterations. Empty if the run did not train.

    Raises:
        ValueError: a line other than the last is no JSON object with a step.
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
            raise ValueError(
                f'{path}, line {number}: not JSON ({error}); is this a scalar log of MMEngine?'
            ) from error
        if not isinstance(record, dict) or 'step' not in record:
            raise ValueError(
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
        FileNotFoundError: there is no log with training lines.
    """
    if not work_dir.is_dir():
        raise FileNotFoundError(f'{work_dir} is not a folder')
    records = []
    logs = sorted(work_dir.glob(LOG_PATTERN))
    for log in logs:
        run = read_log(log)
        if run:
            records = [record for record in records if record['step'] < run[0]['step']] + run
    if not records:
        raise FileNotFoundError(
            f'no training log in {work_dir}: {len(logs)} files match '
            f'{LOG_PATTERN}, none with a training line; give the work_dir of a '
            'training run that has logged at least once'
        )
    return records


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='work_dir of one or more training runs')
    parser.add_argument('--out', type=Path, help='PNG to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args(argv)
    try:
        records = read_work_dir(args.work_dir)
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    out = args.out or args.work_dir / 'curves.png'
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_curves(records, args.work_dir.resolve().name).savefig(out, format='png')
    print(f'wrote {out}')


if __name__ == '__main__':
    main()
