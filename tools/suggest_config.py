"""Suggest which shipped config to take for a data set, and say why.

    python tools/suggest_config.py data/mine               # with train.json and val.json
    python tools/suggest_config.py labels/a.json labels/b.json --device gpu

Reads annotation files alone, no images.
"""

from __future__ import annotations

import argparse
import os
import sys


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'data', nargs='+', help='data root, or COCO files: of the training, of the validation'
    )
    parser.add_argument(
        '--device',
        choices=('auto', 'gpu', 'cpu'),
        default='auto',
        help='what it will be trained on; auto: whether this machine has an NVIDIA driver',
    )
    args = parser.parse_args(argv)

    from swin_ext.preflight.suggestion import suggest_config

    print(suggest_config(args.data, args.device))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # needs no mmdet
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
