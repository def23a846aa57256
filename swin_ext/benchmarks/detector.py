"""Benchmark a whole Swin Mask R-CNN against mmdet's and torchvision's.

    python tools/benchmark_detector.py --arch small --sizes 800x1333 --json bench.json

All models live in one process and take turns, in an order drawn anew each time, on the same random
images with ten random objects each. They have random weights (mmdet's those of ours), no
stochastic depth, the same numbers of proposals and samples, and 100 instances of any score in each
image. Ours is mmdet's Mask R-CNN around SwinBackbone.

Modes:
    train      forward, losses, backward and a step of AdamW.
    inference  evaluation mode, from images to instances with masks of their size.

With --switches, ours is compared with itself instead: without them, with each alone and with all,
in steps of a training from a batch of the data loader to updated weights and losses as numbers.

    fused          AdamW in one kernel (optim_wrapper.optimizer.fused); on CUDA it also leaves out
                   an update by a flag on the device
    late_figures   losses are read one step later (AsyncRuntimeInfoHook)
    device_masks   targets of masks are cut out on the device (DeviceTargetMaskHead)
    channels_last  maps of neck and heads (channels_last=True)
    pinned         images in pinned memory, asynchronous copies (AsyncDetDataPreprocessor)
    compiled       the backbone (compile_backbone=True); CUDA only

After the timed steps, one more of each model goes through PyTorch's profiler, which says how its
time is spread over the parts: device time on CUDA, else time of the calling thread. `backward` and
`optimizer` are of all parts; `rest` is losses, pasting of masks and what no part has.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from swin_ext.benchmarks.backbone import ARCHS, PRECISIONS, parse_size, positive, settle_device

PEERS = ('mmdet', 'torchvision')
MODES = ('train', 'inference')
CLOCKS = {'wall': time.perf_counter, 'cpu': time.process_time}
SWITCHES = ('fused', 'late_figures', 'device_masks', 'channels_last', 'pinned', 'compiled')


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--arch', default='small', choices=ARCHS)
    add('--sizes', nargs='+', type=parse_size, metavar='HxW', default=[(256, 256)])
    add('--batch', type=positive, default=2, help='images per step (default: 2)')
    add('--peers', nargs='*', choices=PEERS, default=list(PEERS))
    add('--modes', nargs='+', choices=MODES, default=list(MODES))
    add('--switches', nargs='*', choices=SWITCHES, help='compare these; all, if none is named')
    add('--config', type=Path, help='with --switches: a Mask R-CNN in place of --arch')
    add('--precisions', nargs='+', choices=PRECISIONS, default=['fp32'])
    add('--repeats', type=positive, default=5, help='timed steps of each model (default: 5)')
    add('--device', choices=['cpu', 'cuda'], help='default: cuda if there is one')
    add('--threads', type=positive, help="CPU threads (default: PyTorch's)")
    add('--clock', choices=CLOCKS, default='wall', help='cpu: for a CPU that others use, too')
    add('--json', type=Path, metavar='FILE', help='write all measurements here')
    args = parser.parse_args(argv)
    settle_device(parser, args)
    if args.clock == 'cpu' and args.device != 'cpu':
        parser.error('--clock cpu does not count a GPU')
    if args.config and args.switches is None:
        parser.error('--config is of --switches: name both')
    if args.config and not args.config.is_file():
        parser.error(f'--config: there is no file {args.config}')
    if args.switches is not None:
        args.modes, args.peers = ['step'], []
        args.arch = args.config.stem if args.config else args.arch
        args.switches = args.switches or list(SWITCHES)
    return args


def run(args: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Measure all cases; writes `args.json` after each.

    Returns:
        `command`, `machine`, `versions`, `settings`, `skipped` and `cases`, each with `size`
        (H, W) in px, `precision`, `mode` and `models` as of `backbone_steps.measure_steps`, with
        `parts_ms`.
    """
    import torch
    from mmengine.config import Config
    from tqdm import tqdm

    from swin_ext.benchmarks.backbone_models import (
        OWN,
        detector_config,
        find_missing,
        make_raw_batch,
    )
    from swin_ext.benchmarks.backbone_report import describe_machine, find_versions, header
    from swin_ext.benchmarks.backbone_steps import PRECISIONS as DTYPES
    from swin_ext.benchmarks.backbone_steps import measure_steps
    from swin_ext.benchmarks.detector_models import build, make_batch
    from swin_ext.benchmarks.detector_switches import build_variants, make_training_step
    from swin_ext.models.swin import ARCHITECTURES

    device = torch.device(args.device)
    skipped = find_missing(args.peers)
    peers = tuple(peer for peer in args.peers if peer not in skipped)
    switches = list(args.switches or ())
    if device.type == 'cpu' and 'compiled' in switches:
        switches.remove('compiled')
        skipped['compiled'] = 'compile_backbone leaves a backbone on a CPU as it is'
    report = dict(
        command=shlex.join(['python', 'tools/benchmark_detector.py', *argv]),
        machine=describe_machine(device),
        versions=find_versions(('mmdet', *(peer for peer in peers if peer != 'mmdet'))),
        settings=dict(
            arch=args.arch,
            batch=args.batch,
            repeats=args.repeats,
            device=device.type,
            clock=args.clock,
        ),
        skipped=skipped,
        cases=[],
    )
    print(header(report), flush=True)
    torch.manual_seed(0)
    if args.switches is None:
        detectors, on = build(peers, ARCHITECTURES[args.arch], device), {}
    else:
        cfg = (
            Config.fromfile(args.config).model
            if args.config
            else detector_config(ARCHITECTURES[args.arch])
        )
        variants = build_variants(switches, cfg, device)
        detectors = {name: detector for name, (detector, _) in variants.items()}
        on = {name: switches for name, (_, switches) in variants.items()}
    num_cases = len(args.sizes) * len(args.precisions) * len(args.modes)
    with tqdm(total=num_cases * len(detectors) * args.repeats, unit='step') as progress:
        for size in args.sizes:
            if args.switches is None:
                batch = make_batch(detectors[OWN].model, args.batch, size)
            else:
                batch = make_raw_batch(args.batch, size)
            for precision in args.precisions:
                autocast = nullcontext
                if DTYPES[precision] is not None:
                    autocast = partial(torch.autocast, device.type, dtype=DTYPES[precision])
                for mode in args.modes:
                    progress.set_description('{}x{} {} {}'.format(*size, precision, mode))
                    steps = {
                        name: make_training_step(detector, on[name], batch, autocast)
                        if mode == 'step'
                        else make_step(detector, mode, batch, autocast)
                        for name, detector in detectors.items()
                    }
                    models = {name: detector.model for name, detector in detectors.items()}
                    results = measure_steps(
                        steps,
                        models,
                        mode != 'inference',
                        device,
                        args.repeats,
                        progress,
                        CLOCKS[args.clock],
                    )
                    for name, result in results.items():
                        if 'error' not in result:
                            result['parts_ms'] = time_parts(
                                detectors[name], steps[name], device.type
                            )
                    report['cases'].append(
                        dict(size=size, precision=precision, mode=mode, models=results)
                    )
                    if args.json:
                        args.json.write_text(json.dumps(report, indent=1))
    return report


def make_step(detector, mode: str, batch: dict, autocast):
    """A function without arguments that does one step."""
    import torch
    from torch.profiler import record_function

    model = detector.model

    def inference() -> None:
        model.eval()
        with torch.no_grad(), autocast():
            detector.predict(batch)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)

    def train() -> None:
        model.train()
        torch.manual_seed(0)  # draw the same samples for each model
        with autocast():
            loss = detector.loss(batch)
        with record_function('part: backward'):
            loss.backward()
        with record_function('part: optimizer'):
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return train if mode == 'train' else inference


@contextmanager
def marked_parts(detector) -> Iterator[None]:
    """Within, the profiler sees the parts of a detector by their names."""
    from torch.profiler import record_function

    from swin_ext.benchmarks.detector_models import PARTS

    # RPN and RoI heads of mmdet are called by methods of their own, not by `forward`.
    names = ('forward', 'loss', 'predict', 'loss_and_predict')
    for title, part in zip(PARTS, detector.parts):
        for name in names:
            method = getattr(part, name, None)
            if method is None:
                continue

            def marked(*args, method=method, title=title, **kwargs):
                with record_function(f'part: {title}'):
                    return method(*args, **kwargs)

            setattr(part, name, marked)
    try:
        yield
    finally:
        for part in detector.parts:
            for name in names:
                part.__dict__.pop(name, None)


def time_parts(detector, step, device: str) -> dict[str, float]:
    """Milliseconds of one step by part, with `rest`, as PyTorch's profiler has them."""
    from torch.profiler import ProfilerActivity, profile, record_function

    activities = [ProfilerActivity.CPU]
    if device == 'cuda':
        activities.append(ProfilerActivity.CUDA)
    with marked_parts(detector), profile(activities=activities, acc_events=True) as profiler:
        with record_function('whole'):
            step()
    # A range within another of the same part, as of a loss that calls forward, counts once.
    ranges = sorted(
        (
            (event.time_range.start, event.time_range.end, event)
            for event in profiler.events()
            if event.name.startswith('part: ') and event.device_type.name == 'CPU'
        ),
        key=lambda each: each[:2],
    )
    parts: dict[str, float] = {}
    end = float('-inf')
    for start, stop, event in ranges:
        if start < end:
            continue
        end = stop
        name = event.name.removeprefix('part: ')
        parts[name] = parts.get(name, 0.0) + _microseconds(event, device) / 1e3
    (whole,) = (
        event
        for event in profiler.events()
        if event.name == 'whole' and event.device_type.name == 'CPU'
    )
    return {**parts, 'rest': _microseconds(whole, device) / 1e3 - sum(parts.values())}


def _microseconds(event, device: str) -> float:
    return event.device_time_total if device == 'cuda' else event.time_range.elapsed_us()


def parts_table(report: dict) -> str:
    """One row per case and model, and how its profiled step was spent."""
    from swin_ext.benchmarks.detector_models import PARTS

    titles = (*PARTS, 'backward', 'optimizer', 'rest')
    rows = [('size', 'precision', 'mode', 'model', *(f'{title} [ms]' for title in titles))]
    rows.append(('---',) * 4 + ('---:',) * len(titles))
    for case in report['cases']:
        for name, result in case['models'].items():
            parts = result.get('parts_ms')
            if parts is not None:
                key = ('{}x{}'.format(*case['size']), case['precision'], case['mode'], name)
                figures = (f'{parts[title]:.1f}' if title in parts else '' for title in titles)
                rows.append((*key, *figures))
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def main(argv: Sequence[str] | None = None) -> dict:
    """Print a header and two tables and return the report."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)

    import torch

    import swin_ext.registration  # noqa: F401  # the detectors are built by name
    from swin_ext.benchmarks.backbone_report import markdown_table

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    report = run(args, argv)
    print(f'\n{markdown_table(report)}\n\n{parts_table(report)}')
    return report
