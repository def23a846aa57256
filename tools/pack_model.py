"""Pack a trained model into one small file: float16 weights, config and classes in its header.

    python tools/pack_model.py work_dirs/run/inference_*.pth --out cmr-nano.safetensors

Give the file where a model is asked for, or as load_from. It holds no path of this machine.
"""

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='inference_*.pth or another checkpoint of a training')
    parser.add_argument('--out', type=Path, required=True, help='.safetensors file to write')
    args = parser.parse_args(argv)

    from swin_ext.checkpoint.model_file import write_model

    path = write_model(args.model, args.out)
    print(f'wrote {path} ({path.stat().st_size / 1e6:.2f} MB)')


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
