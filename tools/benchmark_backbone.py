"""Benchmark SwinBackbone against the Swin of mmdet, timm, torchvision and Hugging Face.

    python tools/benchmark_backbone.py --arch small --sizes 224 448 800x1333 --json bench.json

All models live in one process, see the same random images, and take turns in every repeat, in an
order drawn anew each time, so that whatever else slows the machine slows them alike. They do the
same work: random weights, no stochastic depth, no dropout, and four normed, contiguous
(B, C, H, W) maps, for which those peers that are classifiers get padding to whole patches and
output norms. Equal parameter counts and output shapes are checked before anything is timed.

Modes:
    forward   evaluation mode, without gradients.
    train     training mode; forward, sum of the maps' means, backward, gradients to None. In
              fp16 without loss scaling, which would take the same time for all.
    detector  training step of a whole Mask R-CNN on random boxes and masks, without optimizer;
              against mmdet alone, with the same weights and samples.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import itertools
import json
import platform
import random
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

import swin_ext
from swin_ext.models.swin import ARCHITECTURES, SwinBackbone

OWN = 'swin_ext'
PATCH, WINDOW = 4, 7
DETECTOR_CONFIG = Path(__file__).parents[1] / 'configs/_base_/models/mask_rcnn_swin-s_fpn.py'
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
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


class UnequalWorkError(ValueError):
    """A peer that computes something else than ours."""


# ---------------------------------------------------------------------------------- the models


class DensePrediction(nn.Module):
    """A classifier's stages with what detection backbones have around them.

    Args:
        stages: Returns the (B, H, W, C) output of each stage, in a list or as values of a dict.
        channels: C of each stage.
    """

    def __init__(self, stages: nn.Module, channels: Sequence[int]):
        super().__init__()
        self.stages = stages
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        pad_h, pad_w = -x.shape[2] % PATCH, -x.shape[3] % PATCH
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        maps = self.stages(x)
        maps = maps.values() if isinstance(maps, dict) else maps
        return [norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, maps)]


def stage_channels(arch: dict) -> list[int]:
    return [arch['embed_dims'] * 2**i for i in range(len(arch['depths']))]


def build_mmdet(arch: dict, size: tuple[int, int]) -> nn.Module:
    from mmdet.models.backbones.swin import SwinTransformer

    return SwinTransformer(**arch, window_size=WINDOW, drop_path_rate=0.0)


def build_timm(arch: dict, size: tuple[int, int]) -> nn.Module:
    """For a fixed size, which lets timm make its attention masks beforehand."""
    import timm

    stages = timm.create_model(
        'swin_tiny_patch4_window7_224',
        features_only=True,
        img_size=tuple(-(-side // PATCH) * PATCH for side in size),
        embed_dim=arch['embed_dims'],
        depths=arch['depths'],
        num_heads=arch['num_heads'],
        always_partition=True,  # else maps smaller than a window get smaller windows
        drop_path_rate=0.0,
    )
    return DensePrediction(stages, stage_channels(arch))


def build_torchvision(arch: dict, size: tuple[int, int]) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        patch_size=[PATCH, PATCH],
        window_size=[WINDOW, WINDOW],
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        stochastic_depth_prob=0.0,
    )
    # features: patch embedding, then stages and patch mergings in turn
    nodes = [f'features.{2 * i + 1}' for i in range(len(arch['depths']))]
    return DensePrediction(create_feature_extractor(model, nodes), stage_channels(arch))


class HuggingFaceMaps(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(x).feature_maps


def build_hf(arch: dict, size: tuple[int, int]) -> nn.Module:
    from transformers import SwinBackbone as HuggingFaceSwin
    from transformers import SwinConfig

    backbone = HuggingFaceSwin(
        SwinConfig(
            image_size=size,
            patch_size=PATCH,
            window_size=WINDOW,
            embed_dim=arch['embed_dims'],
            depths=list(arch['depths']),
            num_heads=list(arch['num_heads']),
            drop_path_rate=0.0,
            out_features=[f'stage{i + 1}' for i in range(len(arch['depths']))],
        )
    )
    backbone.swin.layernorm = nn.Identity()  # the classifier's; no feature map depends on it
    return HuggingFaceMaps(backbone)


PEERS = {
    'mmdet': build_mmdet,
    'timm': build_timm,
    'torchvision': build_torchvision,
    'hf': build_hf,
}
PACKAGES = {'mmdet': 'mmdet', 'timm': 'timm', 'torchvision': 'torchvision', 'hf': 'transformers'}


def find_missing(peers: Sequence[str]) -> dict[str, str]:
    """Reason for each peer whose package cannot be imported."""
    missing = {}
    for peer in peers:
        try:
            importlib.import_module(PACKAGES[peer])
        except ImportError as error:
            missing[peer] = f'{PACKAGES[peer]} cannot be imported ({error})'
    return missing


def check_same_work(name: str, peer: nn.Module, own: nn.Module, images: Tensor) -> None:
    """Compare a peer with ours before any time is taken.

    Raises:
        UnequalWorkError: If parameter counts or shapes of the maps differ.
    """
    with torch.no_grad():
        found, expected = (
            (sum(p.numel() for p in model.parameters()), [tuple(x.shape) for x in model(images)])
            for model in (peer, own)
        )
    for what, a, b in zip(('parameters', 'maps of shape'), found, expected):
        if a != b:
            raise UnequalWorkError(
                f'{name} has {a} {what}, SwinBackbone {b}, for images {tuple(images.shape)}: they '
                f'do not do the same work. Install another version of it or leave it out of '
                '--peers.'
            )


def build_backbones(
    peers: Sequence[str], arch: dict, images: Tensor
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Build ours and the peers for images of one size.

    Returns:
        Models in training mode on the images' device, ours first, and for each peer that cannot
        process such images the reason.

    Raises:
        UnequalWorkError: See `check_same_work`.
    """
    own = SwinBackbone(arch=arch, window_size=WINDOW, drop_path_rate=0.0).to(images.device)
    models, failures = {OWN: own}, {}
    for name in peers:
        try:
            peer = PEERS[name](arch, tuple(images.shape[2:])).to(images.device)
            with torch.no_grad():
                peer(images)
        except Exception as error:  # of whatever kind: the table tells it
            failures[name] = describe(error)
            continue
        check_same_work(name, peer, own, images)
        models[name] = peer
    return models, failures


def build_detectors(arch: dict, device: torch.device) -> dict[str, nn.Module]:
    """Mask R-CNNs of the same weights around our backbone and mmdet's."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope

    config = Config.fromfile(DETECTOR_CONFIG).model
    config.neck.in_channels = stage_channels(arch)
    backbones = {
        OWN: dict(type='SwinBackbone', arch=arch),
        'mmdet': dict(type='SwinTransformer', **arch),
    }
    detectors = {}
    with DefaultScope.overwrite_default_scope('mmdet'):
        for name, backbone in backbones.items():
            backbone = dict(backbone, window_size=WINDOW, drop_path_rate=0.0)
            detectors[name] = MODELS.build(dict(config, backbone=backbone)).to(device)
    detectors['mmdet'].load_state_dict(detectors[OWN].state_dict())
    return detectors


def make_detector_batch(detector: nn.Module, batch: int, size: tuple[int, int]) -> dict:
    """Preprocessed images with ten random objects each."""
    from mmdet.testing import demo_mm_inputs

    samples = demo_mm_inputs(batch, (3, *size), num_items=[10] * batch, with_mask=True)
    return detector.data_preprocessor(samples, training=True)


# --------------------------------------------------------------------------- what is measured


def forward_step(model: nn.Module, images: Tensor, autocast: Callable) -> None:
    with torch.no_grad(), autocast():
        model(images)


def train_step(model: nn.Module, images: Tensor, autocast: Callable) -> None:
    with autocast():
        loss = sum(x.mean() for x in model(images))
    loss.backward()
    model.zero_grad(set_to_none=True)


def detector_step(model: nn.Module, batch: dict, autocast: Callable) -> None:
    torch.manual_seed(0)  # draw the same proposals for each model
    with autocast():
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    model.zero_grad(set_to_none=True)


STEPS = {'forward': forward_step, 'train': train_step, 'detector': detector_step}


def activation_bytes(step: Callable[[], None], model: nn.Module) -> int:
    """Bytes that autograd keeps from the forward to the backward pass of a step.

    Each storage counts once and whole, also where a view of it is kept. Parameters and buffers do
    not count; copies of them that autocast makes do.
    """
    resident = {
        x.untyped_storage().data_ptr() for x in itertools.chain(model.parameters(), model.buffers())
    }
    saved = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in resident:
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(saved.values())


def peak_cuda_bytes(step: Callable[[], None]) -> int:
    """Highest allocation during a step above what was allocated before, the weights of all."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def time_in_turns(
    steps: dict[str, Callable[[], None]],
    repeats: int,
    synchronize: Callable[[], None],
    progress: tqdm,
) -> dict[str, list[float]]:
    """Time every step once per repeat, in seconds.

    In random order: the memory that one step leaves behind, to be reused or to be given back to
    the system, is the business of the next one.
    """
    times = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(repeats):
        for name, step in order.sample(sorted(steps.items()), len(steps)):
            synchronize()
            start = time.perf_counter()
            step()
            synchronize()
            times[name].append(time.perf_counter() - start)
            progress.update()
    return times


def measure_case(
    models: dict[str, nn.Module],
    mode: str,
    precision: str,
    inputs: Tensor | dict,
    device: torch.device,
    repeats: int,
    progress: tqdm,
) -> dict[str, dict]:
    """Measure all models in one mode and precision.

    Returns:
        For each model `times_s`, `median_s`, `quartiles_s`, `ratio` (its median by ours) and
        `memory_bytes`; or the `error` that stopped it.
    """
    on_cuda = device.type == 'cuda'
    synchronize = torch.cuda.synchronize if on_cuda else lambda: None
    autocast = contextlib.nullcontext
    if PRECISIONS[precision] is not None:
        autocast = partial(torch.autocast, device.type, dtype=PRECISIONS[precision])

    results, steps = {}, {}
    for name, model in models.items():
        model.train(mode != 'forward')
        step = partial(STEPS[mode], model, inputs, autocast)
        memory = None
        try:
            step()  # warm-up
            if on_cuda:
                memory = peak_cuda_bytes(step)
            elif mode != 'forward':
                memory = activation_bytes(step, model)
            else:
                step()
        except Exception as error:  # out of memory, an operator without this precision, ...
            results[name] = dict(error=describe(error))
            model.zero_grad(set_to_none=True)
            progress.total -= repeats
            continue
        results[name] = dict(memory_bytes=memory)
        steps[name] = step

    for name, times in time_in_turns(steps, repeats, synchronize, progress).items():
        lower, median, upper = np.percentile(times, (25, 50, 75)).tolist()
        results[name].update(times_s=times, median_s=median, quartiles_s=(lower, upper))
    for result in results.values():
        if 'times_s' in result:
            own_median = results[OWN].get('median_s')
            result['ratio'] = result['median_s'] / own_median if own_median else None
    return results


def describe(error: Exception) -> str:
    """One line for a table."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


# -------------------------------------------------------------------------------- the report


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
        OWN: swin_ext.__version__,
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


def run(args: argparse.Namespace, argv: Sequence[str]) -> dict:
    """Measure all cases; writes `args.json` after each, so that little is lost if it is stopped.

    Returns:
        `command`, `machine`, `versions`, `settings`, `skipped` (peer to reason) and `cases`, each
        with `size` (H, W) in px, `precision`, `mode` and `models` as of `measure_case`.

    Raises:
        UnequalWorkError: See `check_same_work`.
    """
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

    models_per_mode = {mode: 1 + len(peers) for mode in args.modes}
    if 'detector' in models_per_mode:
        models_per_mode['detector'] = 2
    total = len(args.sizes) * len(args.precisions) * sum(models_per_mode.values()) * args.repeats
    with tqdm(total=total, unit='step', dynamic_ncols=True) as progress:
        for size in args.sizes:
            torch.manual_seed(0)
            images = torch.randn(args.batch, 3, *size, device=device)
            backbones, failures = build_backbones(peers, arch, images)
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
        default='small',  # the peers here are of V1
        choices=[name for name in ARCHITECTURES if not name.startswith('v2-')],
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
    parser.add_argument('--peers', nargs='*', choices=list(PEERS), default=list(PEERS))
    parser.add_argument('--modes', nargs='+', choices=list(STEPS), default=['forward', 'train'])
    parser.add_argument(
        '--precisions',
        nargs='+',
        choices=list(PRECISIONS),
        help='fp32, or autocast to bf16 or fp16 (default: fp32 and bf16; on CUDA fp16 too)',
    )
    parser.add_argument(
        '--repeats',
        type=positive,
        default=10,
        help='timed steps of each model in each case (default: 10)',
    )
    parser.add_argument(
        '--device', choices=['cpu', 'cuda'], default='cuda' if torch.cuda.is_available() else 'cpu'
    )
    parser.add_argument('--threads', type=positive, help="CPU threads (default: PyTorch's)")
    parser.add_argument('--json', type=Path, metavar='FILE', help='write all measurements here')
    args = parser.parse_args(argv)
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: PyTorch finds no CUDA device; use --device cpu')
    if args.precisions is None:
        args.precisions = list(PRECISIONS) if args.device == 'cuda' else ['fp32', 'bf16']
    if args.device == 'cpu' and 'fp16' in args.precisions:
        parser.error('--precisions fp16: for CUDA alone; use bf16 on a CPU')
    if 'detector' in args.modes and 'mmdet' not in args.peers:
        parser.error('--modes detector compares with mmdet: add mmdet to --peers')
    return parser, args


def main(argv: Sequence[str] | None = None) -> dict:
    """Print a header and a table and return the report."""
    argv = sys.argv[1:] if argv is None else argv
    parser, args = parse_args(argv)
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


if __name__ == '__main__':
    main()
