"""Whether findings point at bad frames, and what corrections do, on results with their truth.

    mim test mmdet CONFIG --checkpoint CKPT \\
        --cfg-options test_evaluator.0.outfile_prefix=work_dirs/results
    python tools/validate_inference.py --ann data/mine/val.json --pred work_dirs/results.segm.json
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
    parser.add_argument('--ann', type=Path, required=True, help='as tools/cmr2coco.py writes it')
    parser.add_argument('--pred', type=Path, required=True, help='PREFIX.segm.json')
    parser.add_argument('--score-thr', type=float, default=0.3, help='lowest score in use: 0.3')
    args = parser.parse_args(argv)

    from swin_ext.inference.validation import validate

    print(validate(args.ann, args.pred, args.score_thr))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # needs no mmdet

    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
