"""`FastCocoMetric` against mmdet's `CocoMetric` on the same synthetic crowded images."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faster_coco_eval
import mmdet
import numpy as np
import pycocotools.mask
import torch
from mmdet.evaluation import CocoMetric
from mmengine.logging import MMLogger
from tqdm import tqdm

from swin_ext.evaluation import FastCocoMetric


class CrowdedImages:
    """Random ellipses, and a detector that finds most of them and some that are not there."""

    def __init__(self, args: argparse.Namespace):
        self.size, self.num_images = args.size, args.images
        self.num_instances, self.num_predictions = args.instances, args.predictions
        self.classes = tuple(f'class_{i}' for i in range(args.classes))
        self.seed = args.seed
        self.grid = np.arange(args.size)

    def ellipses(self, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
        """Boolean masks (N, size, size) from (N, 2) centres and radii in pixels, as y and x."""
        distance = (self.grid - centres[..., None]) / radii[..., None]  # (N, 2, size)
        distance **= 2
        return distance[:, 0, :, None] + distance[:, 1, None, :] <= 1

    def objects(self, image: int) -> tuple:
        rng = np.random.default_rng((self.seed, image))
        centres = rng.uniform(0.05, 0.95, (self.num_instances, 2)) * self.size
        radii = rng.uniform(0.02, 0.12, (self.num_instances, 2)) * self.size
        return rng, centres, radii, rng.integers(len(self.classes), size=self.num_instances)

    def coco(self) -> dict:
        images, annotations = [], []
        for image in tqdm(range(self.num_images), 'ground truth', unit='image'):
            _, centres, radii, labels = self.objects(image)
            images.append(dict(id=image + 1, file_name='', height=self.size, width=self.size))
            masks = self.ellipses(centres, radii).astype(np.uint8).transpose(1, 2, 0)
            for label, rle in zip(labels, pycocotools.mask.encode(np.asfortranarray(masks))):
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=image + 1,
                        category_id=int(label) + 1,
                        iscrowd=0,
                        area=int(pycocotools.mask.area(rle)),
                        bbox=pycocotools.mask.toBbox(rle).tolist(),
                        segmentation=dict(rle, counts=rle['counts'].decode()),
                    )
                )
        categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, 1)]
        return dict(images=images, annotations=annotations, categories=categories)

    def predictions(self) -> Iterator[dict]:
        for image in range(self.num_images):
            rng, centres, radii, labels = self.objects(image)
            pick = rng.integers(self.num_instances, size=self.num_predictions)
            centres = centres[pick] + rng.normal(0, 0.01 * self.size, (len(pick), 2))
            radii = radii[pick] * rng.uniform(0.8, 1.25, (len(pick), 2))
            boxes = np.concatenate([centres - radii, centres + radii], 1)[:, [1, 0, 3, 2]]
            yield dict(
                img_id=image + 1,
                ori_shape=(self.size, self.size),
                pred_instances=dict(
                    bboxes=torch.tensor(boxes, dtype=torch.float32),
                    scores=torch.tensor(rng.uniform(0, 1, len(pick)), dtype=torch.float32),
                    labels=torch.tensor(labels[pick]),
                    masks=torch.from_numpy(self.ellipses(centres, radii)),
                ),
            )


def compare(args: argparse.Namespace) -> dict:
    """Run both metrics; seconds per part and the largest difference of their figures."""
    data = CrowdedImages(args)
    MMLogger.get_instance('benchmark_metric', log_level='ERROR')
    with tempfile.TemporaryDirectory() as folder:
        ann_file = Path(folder) / 'truth.json'
        ann_file.write_text(json.dumps(data.coco()))
        metrics, seconds, figures = {}, {}, {}
        for name, metric_class in (('CocoMetric', CocoMetric), ('FastCocoMetric', FastCocoMetric)):
            with contextlib.redirect_stdout(io.StringIO()):
                started = time.perf_counter()
                metrics[name] = metric_class(
                    ann_file=str(ann_file), metric=['bbox', 'segm'], classwise=True
                )
                seconds[name] = dict(init=time.perf_counter() - started, process=0.0)
            metrics[name].dataset_meta = dict(classes=data.classes)
        for sample in tqdm(data.predictions(), 'predictions', data.num_images, unit='image'):
            for name, metric in metrics.items():
                started = time.perf_counter()
                metric.process({}, [sample])
                seconds[name]['process'] += time.perf_counter() - started
        for name, metric in metrics.items():
            print(f'{name}.evaluate ...', flush=True)
            with contextlib.redirect_stdout(io.StringIO()):
                started = time.perf_counter()
                figures[name] = metric.evaluate(data.num_images)
                seconds[name]['evaluate'] = time.perf_counter() - started
    for parts in seconds.values():
        parts['total'] = sum(parts.values())
    items = [
        f'coco/{metric}_{item}'
        for metric in ('bbox', 'segm')
        for item in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
    ]
    return dict(
        settings=vars(args),
        versions=dict(
            python=platform.python_version(),
            torch=torch.__version__,
            mmdet=mmdet.__version__,
            faster_coco_eval=faster_coco_eval.__version__,
            cpu_count=os.cpu_count(),
            torch_threads=torch.get_num_threads(),
        ),
        seconds=seconds,
        speedup=seconds['CocoMetric']['total'] / seconds['FastCocoMetric']['total'],
        figures={name: {item: figures[name][item] for item in items} for name in figures},
        largest_difference=max(
            abs(figures['CocoMetric'][item] - figures['FastCocoMetric'][item]) for item in items
        ),
    )


def report(result: dict) -> str:
    """The seconds as a Markdown table."""
    slow, fast = (result['seconds'][name] for name in ('CocoMetric', 'FastCocoMetric'))
    lines = ['| seconds | CocoMetric | FastCocoMetric | ratio |', '|---|---:|---:|---:|']
    lines += [
        f'| {part} | {slow[part]:.2f} | {fast[part]:.2f} | {slow[part] / fast[part]:.1f} |'
        for part in slow
        if part != 'init'
    ]
    return '\n'.join(lines)


def benchmark_metric(args: argparse.Namespace, json_path: Path | None) -> None:
    """Print the comparison, and write it to `json_path`; `args` are those of the tool."""
    result = compare(args)
    print(report(result))
    print(
        f'FastCocoMetric is {result["speedup"]:.1f} times as fast; the figures differ by at most '
        f'{result["largest_difference"]:.1e} (CocoMetric rounds to 5e-4).'
    )
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(result, indent=2))
