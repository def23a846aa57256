"""Time the ways to use one model: mmdet's DetInferencer, this package's, and ONNX.

    python tools/benchmark_inference.py model.pth data/images --onnx model.onnx

All take the same files, in turns, and their results are compared. See `--help`.
"""

import argparse
import os
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add('model', help='inference_*.pth, .safetensors or swin_ext://cmr-nano')
    add('images', type=Path, help='folder of image files')
    add('--onnx', type=Path, help='the same model, exported by tools/export_onnx.py')
    add('--number', type=int, default=64, help='of images')
    add('--batch', type=int, default=8)
    add('--repeats', type=int, default=5, help='passes of each way, in turns')
    add('--device', default='auto')
    add('--score-thr', dest='score_threshold', type=float, help='of all ways')
    add('--cpu-time', action='store_true', help='count processor time; for a busy machine')
    add('--json', dest='json_path', type=Path, help='also write the figures here')
    args = parser.parse_args(argv)

    from swin_ext.benchmarks.inference import benchmark_inference

    benchmark_inference(**vars(args))


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(main))
