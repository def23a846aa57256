"""What the benchmark of the backbone says of the machine and of its figures."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from swin_ext.benchmarks.backbone_models import OWN, PACKAGES
from swin_ext.version import __version__

# A CPU has no peak of its own for each model of a process; what autograd holds can be counted.
MEMORY = {
    'cpu': (
        'held for backward [MiB]',
        'what autograd keeps from the forward to the backward pass: each storage once, without '
        'parameters, but with the copies of them that autocast makes. Not the peak.',
    ),
    'cuda': (
        'peak above weights [MiB]',
        'highest allocation during the step, above what was allocated before it (the weights '
        'of all models).',
    ),
}


def describe_machine(device: torch.device) -> dict:
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux alone has it
        match = re.search(r'model name\s*:\s*(.+)', Path('/proc/cpuinfo').read_text())
        cpu = match[1] if match else cpu
    return dict(
        system=platform.platform(),
        cpu=cpu,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if device.type == 'cuda' else None,
        float32_matmul_precision=torch.get_float32_matmul_precision(),
    )


def find_versions(peers: Sequence[str]) -> dict[str, str]:
    versions = {
        'python': platform.python_version(),
        'torch': torch.__version__,
        OWN: __version__,
    }
    for package in ('mmcv', 'mmcv-lite', *(PACKAGES[peer] for peer in peers)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # one of the two mmcv
            versions[package] = importlib.metadata.version(package)
    return versions


def header(report: dict) -> str:
    lines = [f'$ {report["command"]}']
    for part in ('machine', 'versions', 'settings'):
        lines.append(', '.join(f'{k} {v}' for k, v in report[part].items() if v is not None))
    lines += [f'{peer} skipped: {reason}' for peer, reason in report['skipped'].items()]
    return '\n'.join(lines)


def markdown_table(report: dict) -> str:
    """One row per case and model, and what the columns mean."""
    memory_title, memory_note = MEMORY[report['settings']['device']]
    rows = [
        (
            'size',
            'precision',
            'mode',
            'model',
            'median [ms]',
            'quartiles [ms]',
            f'time / {OWN}',
            memory_title,
        )
    ]
    for case in report['cases']:
        for name, result in case['models'].items():
            key = ('{}x{}'.format(*case['size']), case['precision'], case['mode'], name)
            if 'error' in result:
                rows.append((*key, f'not run: {result["error"]}'.replace('|', '/'), '', '', ''))
                continue
            ratio, memory = result['ratio'], result['memory_bytes']
            rows.append(
                (
                    *key,
                    f'{1e3 * result["median_s"]:.1f}',
                    '{:.1f} - {:.1f}'.format(*(1e3 * t for t in result['quartiles_s'])),
                    '' if ratio is None else f'{ratio:.2f}',
                    '' if memory is None else f'{memory / 2**20:.1f}',
                )
            )
    rows.insert(1, ('---',) * 4 + ('---:',) * 4)
    table = '\n'.join(f'| {" | ".join(row)} |' for row in rows)
    return (
        f'{table}\n\n- time / {OWN}: ratio of the medians; above 1, {OWN} is faster.\n'
        f'- {memory_title}: {memory_note}'
    )
