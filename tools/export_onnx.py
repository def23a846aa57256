"""Export a trained model to one ONNX file, which needs neither PyTorch nor mmdet to be used.

    python tools/export_onnx.py work_dirs/run/inference_*.pth --out model.onnx

Number and size of the images stay open. Give the file where a model is asked for.
"""

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='inference_*.pth, .safetensors or swin_ext://cmr-nano')
    parser.add_argument('--out', type=Path, required=True, help='.onnx file to write')
    args = parser.parse_args(argv)

    from swin_ext.inference.export.onnx_file import export_onnx

    path = export_onnx(args.model, args.out)
    print(f'wrote {path} ({path.stat().st_size / 1e6:.1f} MB)')


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
