"""The command line of `tools/make_cmr_phantom.py`."""

from __future__ import annotations

import argparse
from pathlib import Path

from swin_ext.conversion.phantom_parameters import DEFAULT_FIELD_OF_VIEW_MM, PhantomParameters


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        description='Write a synthetic short-axis cardiac MR (CMR) data set in COCO format.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/cmr_phantom'),
        help='folder to write: images/, train.json, val.json',
    )
    parser.add_argument('--patients', type=int, default=32, help='simulated patients, all splits')
    parser.add_argument(
        '--val-fraction', type=float, default=0.25, help='fraction of the patients that is held out'
    )
    parser.add_argument('--seed', type=int, default=0, help='same seed, same bytes')
    parser.add_argument('--size', type=int, default=128, help='image width and height in px')
    parser.add_argument(
        '--spacing-mm',
        type=float,
        help='pixel width; without it the field of view is '
        f'{DEFAULT_FIELD_OF_VIEW_MM:g} mm whatever the size',
    )
    parser.add_argument('--slice-gap-mm', type=float, default=8.0, help='distance between slices')
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace a phantom data set made with other parameters',
    )
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    parser, args = parse_args(argv)
    spacing_mm = args.spacing_mm
    if spacing_mm is None:
        spacing_mm = DEFAULT_FIELD_OF_VIEW_MM / max(args.size, 1)
    parameters = PhantomParameters(
        patients=args.patients,
        val_fraction=args.val_fraction,
        seed=args.seed,
        size=args.size,
        spacing_mm=spacing_mm,
        slice_gap_mm=args.slice_gap_mm,
    )
    from swin_ext.conversion.phantom_dataset import holds_dataset, replace_folder

    out = args.out.resolve()
    try:
        parameters.check()
        if holds_dataset(out, parameters, args.overwrite):
            print(f'{args.out} already holds this data set: nothing to do')
            return
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    num_images = replace_folder(out, parameters)
    print(
        f'wrote {num_images["train"]} training and {num_images["val"]} validation images of '
        f'{parameters.patients} patients to {args.out}'
    )
