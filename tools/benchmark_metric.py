"""Time `FastCocoMetric` against mmdet's `CocoMetric` on the same synthetic crowded images.

Both metrics get each batch of predictions in turn, as a detector hands them over (boolean masks
of full image size), and then compute box and mask AP with a row per class. Only their own work is
timed: `process` for all images and `evaluate`.

    python tools/benchmark_metric.py                                  # 300 images, some seconds
    python tools/benchmark_metric.py --images 5000 --json metric.json # some minutes
"""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--images', type=int, default=300)
    parser.add_argument('--instances', type=int, default=20, help='objects per image')
    parser.add_argument('--predictions', type=int, default=30, help='detections per image')
    parser.add_argument('--size', type=int, default=256, help='height and width in pixels')
    parser.add_argument('--classes', type=int, default=3)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--json', type=Path, help='also write settings, seconds and figures here')
    args = parser.parse_args(argv)
    json_path = vars(args).pop('json')

    from swin_ext.benchmarks.metric import benchmark_metric

    benchmark_metric(args, json_path)


if __name__ == '__main__':
    main()
