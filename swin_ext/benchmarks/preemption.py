"""Measures what a preemption costs: the check in each iteration, and the checkpoint at the end."""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from pathlib import Path

STEP_SECONDS = 0.01  # between two checks, as between the iterations of a training


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='its model is built, with an AdamW of its parameters')
    parser.add_argument('--folder', type=Path, help='on the disk to measure (default: temporary)')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--ranks', type=int, default=2, help='processes that agree')
    parser.add_argument('--checks', type=int, default=300)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report = measure_checkpoint(args.config, Path(folder), args.repeats)
        report['check_us'] = measure_checks(Path(folder), args.ranks, args.checks)
    print(
        f'state of the training: {report["mib"]:.0f} MiB\n'
        f'copied in {report["copy_s"]:.2f} s, on the disk after {report["whole_s"]:.2f} s '
        f'(medians of {args.repeats}; slowest {report["slowest_s"]:.2f} s)\n'
        f'check in an iteration, {args.ranks} ranks: {report["check_us"]:.0f} us (median)'
    )
    return report


def measure_checkpoint(config: str, folder: Path, repeats: int) -> dict:
    """Size in MiB and seconds of writing weights and AdamW states of a config's model."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import swin_ext.registration  # noqa: F401
    from swin_ext.checkpoint.writer import CheckpointWriter
    from swin_ext.config import finalise_config

    cfg = finalise_config(Config.fromfile(config))
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model = MODELS.build(cfg.model)
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state
    checkpoint = dict(state_dict=model.state_dict(), optimizer=optimizer.state_dict())
    writer, path, copied, whole = CheckpointWriter(), folder / 'checkpoint.pth', [], []
    for _ in range(repeats):
        start = time.perf_counter()
        writer.save(checkpoint, path)
        copied.append(time.perf_counter() - start)
        writer.flush()
        whole.append(time.perf_counter() - start)
    return dict(
        mib=path.stat().st_size / 2**20,
        copy_s=statistics.median(copied),
        whole_s=statistics.median(whole),
        slowest_s=max(whole),
    )


def measure_checks(folder: Path, ranks: int, checks: int) -> float:
    """Median time in microseconds that rank 0 spends on one agreement with the others."""
    import torch

    torch.multiprocessing.spawn(_check, (str(folder), ranks, checks), nprocs=ranks)
    return float((folder / 'check_us').read_text())


def _check(rank: int, folder: str, ranks: int, checks: int) -> None:
    import torch
    from mmengine.registry import HOOKS

    import swin_ext.registration  # noqa: F401

    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder}/rendezvous',
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=120),
    )
    announcement = HOOKS.build(dict(type='PreemptionHook')).announcement
    announcement.start()
    seconds = []
    for _ in range(checks):
        time.sleep(STEP_SECONDS)
        torch.distributed.barrier()  # as the gradients of an iteration are exchanged
        start = time.perf_counter()
        announcement.at_iteration()
        seconds.append(time.perf_counter() - start)
    announcement.settle()
    announcement.stop()
    torch.distributed.barrier()
    if rank == 0:
        Path(folder, 'check_us').write_text(str(1e6 * statistics.median(seconds)))
