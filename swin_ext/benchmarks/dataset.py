"""Loading a large annotation file: time and memory of `CMRDataset` beside mmdet's `CocoDataset`."""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

# What is loaded, each in a process of its own, in this order: the first makes the index.
CASES = {
    'mmdet CocoDataset': dict(type='CocoDataset'),
    'CMRDataset, index=False': dict(type='CMRDataset', index=False),
    'CMRDataset, index is made': dict(type='CMRDataset', index=True),
    'CMRDataset, index is there': dict(type='CMRDataset', index=True),
}
CLASSES = ('LV', 'Myo', 'RV', 'LA', 'RA')
SIDE = 256  # of the images in pixels
FIGURES = ('seconds', 'peak', 'peak_growth', 'private', 'worker')


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description='Load an annotation file with five masks an image, each way in its own process.'
    )
    parser.add_argument('--images', type=int, default=200_000)
    parser.add_argument('--folder', type=Path, help='for the files, which are kept then')
    parser.add_argument('--case', choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.case:
        print(json.dumps(measure(CASES[args.case], args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if not (folder / 'train.json').exists():
            write_files(folder, args.images)
        size = (folder / 'train.json').stat().st_size / 2**20
        print(f'{args.images} images, {5 * args.images} masks, {size:.0f} MiB of JSON')
        print(
            f'{"":<27}{"load [s]":>9}{"peak":>8}{"- imports":>11}{"private":>9}{"worker":>9} [MiB]'
        )
        for name in CASES:
            figures = _in_process(['--case', name, '--folder', str(folder)])
            print(f'{name:<27}{figures["seconds"]:>9.1f}', end='')
            print(*(f'{figures[f]:>{w}.0f}' for f, w in zip(FIGURES[1:], (8, 11, 9, 9))), sep='')
    return 0


def _in_process(arguments: list[str]) -> dict:
    code = 'import sys; from swin_ext.benchmarks.dataset import main; sys.exit(main(sys.argv[1:]))'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code, *arguments],
        env={k: v for k, v in os.environ.items() if k != 'SWIN_EXT_LIGHT'},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def write_files(folder: Path, num_images: int) -> None:
    """Write `train.json`, with five ellipses for each image, and image files, which are empty."""
    from pycocotools import mask as mask_utils

    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIDE, :SIDE]
    masks = []
    for _ in range(1000):
        (top, left), (height, width) = rng.uniform(60, 190, 2), rng.uniform(10, 30, 2)
        inside = ((y - top) / height) ** 2 + ((x - left) / width) ** 2 <= 1
        rle = mask_utils.encode(np.asfortranarray(inside, np.uint8))
        masks.append(
            dict(
                bbox=mask_utils.toBbox(rle).tolist(),
                area=int(mask_utils.area(rle)),
                iscrowd=0,
                segmentation=dict(size=[SIDE, SIDE], counts=rle['counts'].decode()),
            )
        )
    images = [
        dict(id=i, file_name=f'{i // 1000:03}/{i:07}.png', width=SIDE, height=SIDE)
        for i in range(num_images)
    ]
    texts = [json.dumps(mask)[1:] for mask in masks]
    annotations = (
        f'{{"id": {5 * i + k}, "image_id": {i}, "category_id": {k + 1}, '
        + texts[(5 * i + k) % len(texts)]
        for i in range(num_images)
        for k in range(5)
    )
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    for image in images:
        path = folder / 'images' / image['file_name']
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with open(folder / 'train.json', 'w') as file:
        file.write(f'{{"images": {json.dumps(images)}, "annotations": [')
        for number, annotation in enumerate(annotations):
            file.write((', ' if number else '') + annotation)
        file.write(f'], "categories": {json.dumps(categories)}}}')


def measure(case: dict, folder: Path) -> dict:
    """Load as a rank of a training does, and take all items as a worker of its data loader does.

    Returns:
        `FIGURES`: the time, and in MiB the most memory that was resident, also without what it was
        after the imports; what is resident and private to the process afterwards, and what becomes
        private to a worker, which is forked of it.
    """
    from mmengine.registry import DATASETS, init_default_scope

    import swin_ext.registration  # noqa: F401

    init_default_scope('mmdet')
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
        dict(type='PackDetInputs'),
    ]
    gc.collect()
    Path('/proc/self/clear_refs').write_text('5')  # forget the peak
    before, private_before = _status('VmRSS'), private_memory()
    start = time.perf_counter()
    dataset = DATASETS.build(
        dict(
            case,
            data_root=str(folder),
            ann_file='train.json',
            data_prefix=dict(img='images/'),
            metainfo=dict(classes=CLASSES),
            pipeline=pipeline,
            lazy_init=False,
        )
    )
    seconds = time.perf_counter() - start
    peak = _status('VmHWM')
    gc.collect()
    _give_back()
    return dict(
        seconds=seconds,
        peak=peak,
        peak_growth=peak - before,
        private=private_memory() - private_before,
        worker=_in_worker(lambda: [bool(dataset.get_data_info(i)) for i in range(len(dataset))]),
    )


def _in_worker(action: Callable[[], object]) -> float:
    """MiB that become private to a process, forked of this one, by what it does."""
    read, write = os.pipe()
    if not os.fork():
        gc.collect()  # writes into each object, as it would sooner or later
        before = private_memory()
        action()
        _give_back()
        os.write(write, str(private_memory() - before).encode())
        os._exit(0)
    os.wait()
    return float(os.read(read, 100))


def private_memory() -> float:
    """MiB of this process alone: neither shared with others nor those of a mapped file."""
    return _field('/proc/self/smaps_rollup', 'Private_Dirty')


def _status(name: str) -> float:
    return _field('/proc/self/status', name)


def _field(path: str, name: str) -> float:
    (line,) = (line for line in Path(path).read_text().splitlines() if line.startswith(f'{name}:'))
    return int(line.split()[1]) / 1024


def _give_back() -> None:
    """Have the C library return what it keeps for later, which is no memory of the data set."""
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)
