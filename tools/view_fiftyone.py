"""Ground truth and predictions for FiftyOne, with mask mAP and Dice of each image.

    python tools/view_fiftyone.py --ann data/mine/val.json --img-prefix data/mine/images \\
        --pred work_dirs/results.segm.json --out fiftyone [--dataset mine]

Without --dataset nothing but a folder is written, for which neither fiftyone nor its database is
needed: data/, labels.json, predictions.json and samples.csv.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--ann', type=Path, required=True, help='COCO annotation file')
    add('--img-prefix', type=Path, required=True, help='folder of the images, of any format')
    add('--pred', type=Path, required=True, help='COCO segmentation results, PREFIX.segm.json')
    add('--out', type=Path, required=True, help='folder to write')
    add('--score-thr', type=float, default=0.3, help='lowest score that counts for Dice: 0.3')
    add('--dataset', help='also store it under this name; FIFTYONE_DATABASE_URI says where')
    args = parser.parse_args(argv)

    from swin_ext.visualization.fiftyone_export import view

    print(view(**vars(args)))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # needs no mmdet

    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
