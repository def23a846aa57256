"""Draw predicted masks over the ground truth, many images on one sheet.

    mim test mmdet CONFIG --checkpoint CKPT \\
        --cfg-options test_evaluator.0.outfile_prefix=work_dirs/results
    python tools/show_results.py --ann data/cmr_phantom/val.json \\
        --img-prefix data/cmr_phantom/images --pred work_dirs/results.segm.json --out results.png
    # what went wrong most: the images of the lowest mean Dice, the worst first
    python tools/show_results.py ... --worst 24 --out worst.png
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add('--ann', type=Path, required=True, help='COCO annotation file')
    add('--img-prefix', type=Path, required=True, help='folder of the images')
    add('--pred', type=Path, required=True, help='COCO segmentation results, PREFIX.segm.json')
    add('--out', type=Path, required=True, help='PNG to write')
    add('--num', type=int, default=12, help='number of images')
    add('--score-thr', type=float, default=0.5, help='lowest score drawn')
    add('--seed', type=int, help='draw the images at random; without it they are evenly spaced')
    add('--worst', type=int, metavar='N', help='the N images of the lowest mean Dice instead')
    args = parser.parse_args(argv)
    for name in ('num', 'worst'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name} is {getattr(args, name)}: at least one image is needed')
    if args.worst and args.seed is not None:
        parser.error('--seed draws at random, which --worst does not: give one of them')

    from swin_ext.visualization.show_results import ResultsError, show_results

    try:
        print(f'wrote {show_results(**vars(args))} images to {args.out}')
    except (FileNotFoundError, ResultsError) as error:
        parser.error(str(error))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # needs no mmdet
    main()
