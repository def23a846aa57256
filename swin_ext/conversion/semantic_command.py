"""The command line of `tools/coco2semantic.py`."""

from __future__ import annotations

import argparse
from pathlib import Path


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Write label maps of a COCO data set, for MMSegmentation.',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument('data_root', type=Path, help='folder with train.json, val.json and images/')
    parser.add_argument('--out', type=Path, help='folder to write to instead of DATA_ROOT')
    parser.add_argument('--splits', nargs='+', default=(), help='names of annotation files')
    parser.add_argument(
        '--classes', nargs='+', default=(), help='in the order of their labels, from 1 on'
    )
    parser.add_argument(
        '--overlaps',
        choices=['refuse', 'smaller'],
        default='refuse',
        help='what becomes of a pixel of two classes: that of the structure with fewer pixels',
    )
    parser.add_argument('--image-folder', default='images', help='within DATA_ROOT')
    parser.add_argument('--overwrite', action='store_true', help='replace label maps')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from swin_ext.conversion.semantic_labels import write_semantic_labels

    out = args.out or args.data_root
    written = write_semantic_labels(
        args.data_root,
        out,
        args.splits,
        args.classes,
        args.overlaps,
        args.image_folder,
        args.overwrite,
    )
    print(f'labels: {", ".join(f"{i} {name}" for i, name in enumerate(written.classes))}')
    for split, number in written.num_images.items():
        print(f'{out}/{split}.txt: {number} images')
    for pair, pixels in sorted(written.overlaps.items()):
        print(f'{pair}: {pixels} pixels of both, given to the one with fewer pixels in the image')
    if written.ignored:
        print(f'255: {written.ignored} pixels of crowds, which are ignored')
    if written.suffix != '.png':
        print(f'the images are {written.suffix} files: set img_suffix of the data sets to that')
