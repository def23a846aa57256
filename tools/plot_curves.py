"""Plot the losses, the learning rate, the mAP and the throughput of a training run.

`HistoryHook` draws the same at each validation; this is for runs without it, or on another machine.

    python tools/plot_curves.py work_dirs/mask_rcnn_swin-s_cmr
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('work_dir', type=Path, help='work_dir of one or more training runs')
    parser.add_argument('--out', type=Path, help='PNG to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args(argv)

    from swin_ext.utils.errors import UserError
    from swin_ext.visualization.plot_curves import plot_curves

    try:
        print(f'wrote {plot_curves(args.work_dir, args.out)}')
    except UserError as error:
        parser.error(str(error))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # needs no mmdet
    main()
