"""Benchmark SwinBackbone against the Swin of mmdet, timm, torchvision and Hugging Face.

    python tools/benchmark_backbone.py --arch small --sizes 224 448 800x1333 --json bench.json

All models live in one process, see the same random images, and take turns in every repeat, in an
order drawn anew each time, so that whatever else slows the machine slows them alike. They do the
same work: random weights, no stochastic depth, no dropout, and four normed, contiguous
(B, C, H, W) maps, for which those peers that are classifiers get padding to whole patches and
output norms. Equal parameter counts and output shapes are checked before anything is timed.

Ours takes part once with `attn_impl='auto'`, as `swin_ext`, and once with each of `--attn-impls`.

Modes:
    forward   evaluation mode, without gradients.
    train     training mode; forward, sum of the maps' means, backward, gradients to None. In
              fp16 without loss scaling, which would take the same time for all.
    detector  training step of a whole Mask R-CNN on random boxes and masks, without optimizer;
              against mmdet alone, with the same weights and samples.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# Names of what the modules beside this one define, which take seconds to import.
ARCHS = ['tiny', 'small', 'base', 'large']  # of V1, as the peers here are
PEERS = ['mmdet', 'timm', 'torchvision', 'hf']
ATTN_IMPLS = ['eager', 'sdpa', 'triton']
MODES = ['forward', 'train', 'detector']
PRECISIONS = ['fp32', 'bf16', 'fp16']


def parse_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r'([1-9]\d*)(?:x([1-9]\d*))?', text)
    if not match:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no size: write 224 or, height first, 800x1333'
        )
    return int(match[1]), int(match[2] or match[1])


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f'{text!r} is no positive whole number')
    return int(text)


def parse_args(argv: Sequence[str]) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--arch',
        default='small',
        choices=ARCHS,
    )
    parser.add_argument(
        '--sizes',
        nargs='+',
        type=parse_size,
        metavar='HxW',
        default=[(224, 224), (448, 448)],
        help='image sizes in px',
    )
    parser.add_argument('--batch', type=positive, default=2, help='images per step (default: 2)')
    parser.add_argument('--peers', nargs='*', choices=PEERS, default=list(PEERS))
    parser.add_argument(
        '--attn-impls',
        nargs='*',
        choices=ATTN_IMPLS,
        help='ours also with these (default: on CUDA all, on a CPU none)',
    )
    parser.add_argument('--modes', nargs='+', choices=MODES, default=['forward', 'train'])
    parser.add_argument(
        '--precisions',
        nargs='+',
        choices=PRECISIONS,
        help='fp32, or autocast to bf16 or fp16 (default: fp32 and bf16; on CUDA fp16 too)',
    )
    parser.add_argument(
        '--repeats',
        type=positive,
        default=10,
        help='timed steps of each model in each case (default: 10)',
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: cuda if there is one')
    parser.add_argument('--threads', type=positive, help="CPU threads (default: PyTorch's)")
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all measurements here')
    args = parser.parse_args(argv)
    settle_device(parser, args)
    if args.precisions is None:
        args.precisions = list(PRECISIONS) if args.device == 'cuda' else ['fp32', 'bf16']
    if args.attn_impls is None:
        args.attn_impls = list(ATTN_IMPLS) if args.device == 'cuda' else []
    if args.device == 'cpu' and 'triton' in args.attn_impls:
        parser.error('--attn-impls triton: for CUDA alone')
    if 'detector' in args.modes and 'mmdet' not in args.peers:
        parser.error('--modes detector compares with mmdet: add mmdet to --peers')
    return parser, args


def settle_device(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Set `args.device` where it is None; refuse what it does not have."""
    import torch

    has_cuda = torch.cuda.is_available()
    if args.device is None:
        args.device = 'cuda' if has_cuda else 'cpu'
    if args.device == 'cuda' and not has_cuda:
        parser.error('--device cuda: PyTorch finds no CUDA device; use --device cpu')
    if args.device == 'cpu' and 'fp16' in (args.precisions or ()):
        parser.error('--precisions fp16: for CUDA alone; use bf16 on a CPU')


def run(args: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Measure all cases; writes `args.json` after each, so that little is lost if it is stopped.

    Returns:
        `command`, `machine`, `versions`, `settings`, `skipped` (peer to reason) and `cases`, each
        with `size` (H, W) in px, `precision`, `mode` and `models` as of `measure_case`.

    Raises:
        UnequalWorkError: See `check_same_work`.
    """
    import torch
    from tqdm import tqdm

    from swin_ext.benchmarks.backbone_models import (
        OWN,
        build_backbones,
        build_detectors,
        find_missing,
        make_detector_batch,
    )
    from swin_ext.benchmarks.backbone_report import describe_machine, find_versions, header
    from swin_ext.benchmarks.backbone_steps import measure_case
    from swin_ext.models.swin import ARCHITECTURES

    device, arch = torch.device(args.device), ARCHITECTURES[args.arch]
    skipped = find_missing(args.peers)
    peers = [peer for peer in args.peers if peer not in skipped]
    report = dict(
        command=shlex.join(['python', 'tools/benchmark_backbone.py', *argv]),
        machine=describe_machine(device),
        versions=find_versions(peers),
        settings=dict(arch=args.arch, batch=args.batch, repeats=args.repeats, device=device.type),
        skipped=skipped,
        cases=[],
    )
    print(header(report), flush=True)

    models_per_mode = {mode: 1 + len(args.attn_impls) + len(peers) for mode in args.modes}
    if 'detector' in models_per_mode:
        models_per_mode['detector'] = 2
    total = len(args.sizes) * len(args.precisions) * sum(models_per_mode.values()) * args.repeats
    with tqdm(total=total, unit='step', dynamic_ncols=True) as progress:
        for size in args.sizes:
            torch.manual_seed(0)
            images = torch.randn(args.batch, 3, *size, device=device)
            backbones, failures = build_backbones(peers, arch, images, args.attn_impls)
            for mode in args.modes:
                if mode == 'detector':
                    models, unable = build_detectors(arch, device), {}
                    inputs = make_detector_batch(models[OWN], args.batch, size)
                else:
                    models, unable, inputs = backbones, failures, images
                for precision in args.precisions:
                    progress.set_description('{}x{} {} {}'.format(*size, precision, mode))
                    results = measure_case(
                        models, mode, precision, inputs, device, args.repeats, progress
                    )
                    results.update((name, dict(error=error)) for name, error in unable.items())
                    progress.total -= len(unable) * args.repeats
                    report['cases'].append(
                        dict(size=size, precision=precision, mode=mode, models=results)
                    )
                    if args.json:
                        args.json.write_text(json.dumps(report, indent=1))
    return report


def main(argv: Sequence[str] | None = None) -> dict:
    """Print a header and a table and return the report."""
    argv = sys.argv[1:] if argv is None else argv
    parser, args = parse_args(argv)

    import torch

    import swin_ext.registration  # noqa: F401  # the detector is built by name
    from swin_ext.benchmarks.backbone_models import UnequalWorkError
    from swin_ext.benchmarks.backbone_report import markdown_table

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
    try:
        report = run(args, argv)
    except UnequalWorkError as error:
        parser.error(str(error))
    print(f'\n{markdown_table(report)}')
    return report
