"""How long each tool takes to say what it can do: `--help` against a Python that does nothing."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

HEAVY = ('torch', 'mmdet', 'mmengine')


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Time --help of all tools as a ratio to `python -c pass`, in turns.'
    )
    parser.add_argument('--tools', type=Path, required=True, help='folder with the scripts')
    parser.add_argument('--repeats', type=int, default=5, help='runs of each; medians are shown')
    args = parser.parse_args(argv)

    scripts = sorted(args.tools.glob('*.py'))
    calls = {'python -c pass': ['-c', 'pass']}
    calls.update({script.name: [str(script), '--help'] for script in scripts})
    times = {name: [] for name in calls}
    for _ in range(args.repeats):  # in turns, for the machine may be slower for a while
        for name, call in calls.items():
            times[name].append(seconds(call))
    nothing = statistics.median(times['python -c pass'])
    print(f'{"":<28} {"median [s]":>10} {"ratio":>7}  imports')
    for name, values in times.items():
        median = statistics.median(values)
        heavy = ', '.join(heavy_imports(calls[name])) or '-'
        print(f'{name:<28} {median:>10.2f} {median / nothing:>7.1f}  {heavy}')
    return 0


def seconds(call: list[str]) -> float:
    """Wall time of a process of this Python, which must succeed."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *call], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def heavy_imports(call: list[str]) -> list[str]:
    """Which of the packages that take seconds to import a process has imported when it ends."""
    code = (
        'import atexit, json, os, runpy, sys\n'
        f'heavy = lambda: [name for name in {HEAVY!r} if name in sys.modules]\n'
        'atexit.register(lambda: print(json.dumps(heavy()), file=sys.stderr))\n'
        'sys.argv = sys.argv[1:]\n'
        'sys.path[0] = os.path.dirname(sys.argv[0])\n'
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    if call[0] == '-c':
        return []
    done = subprocess.run(
        [sys.executable, '-c', code, *call],
        env=dict(os.environ, PYTHONWARNINGS='ignore'),
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stderr.splitlines()[-1])
