"""Images per second of the ways to use one model, and where the time goes."""

from __future__ import annotations

import contextlib
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmdet
import numpy as np
import onnxruntime
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from tqdm import tqdm

from swin_ext.checkpoint.model_file import read_model_file
from swin_ext.images.reading import read_frame
from swin_ext.inference import load_model, onnx_model
from swin_ext.inference.mmdet_model import set_thresholds
from swin_ext.inference.model import ModelError

PARTS = ('read', 'network', 'paste', 'write', 'rest')
MIN_DICE = 0.95  # of two ways on the same images; below, they would not do the same work
SUFFIXES = ('.png', '.jpg', '.jpeg', '.npy', '.dcm')


class Clock:
    """Seconds by part; what is measured inside of another part does not count for that one."""

    timer = staticmethod(time.perf_counter)

    def __init__(self):
        self.seconds = Counter()
        self._inside = []

    @contextlib.contextmanager
    def measuring(self, part: str) -> Iterator[None]:
        self._inside.append(0.0)
        start = self.timer()
        try:
            yield
        finally:
            taken = self.timer() - start
            self.seconds[part] += taken - self._inside.pop()
            if self._inside:
                self._inside[-1] += taken

    def watch(self, owner: Any, name: str, part: str) -> None:
        """Count each call of `owner.name` for a part."""
        inner = getattr(owner, name)

        def watched(*args, **kwargs):
            with self.measuring(part):
                return inner(*args, **kwargs)

        setattr(owner, name, watched)


class Ours:
    """`load_model(...).predict` on frames that `read_frame` gives."""

    def __init__(self, model: str, batch: int, **settings):
        self.clock, self.batch = Clock(), batch
        self.model = load_model(model, **settings)
        if isinstance(self.model, onnx_model.OnnxModel):
            self.clock.watch(self.model, '_run', 'network')
            self.clock.watch(self.model, '_paste', 'paste')
        else:
            self.clock.watch(self.model.network, 'forward', 'network')
            self.clock.watch(self.model.network.roi_head.mask_head, 'predict_by_feat', 'paste')

    def __call__(self, paths: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Labels (N,) and masks (N, H, W) of each image."""
        for start in range(0, len(paths), self.batch):
            with self.clock.measuring('read'):
                frames = [read_frame(path) for path in paths[start : start + self.batch]]
            for found in self.model.predict(frames):
                yield found.labels, found.masks


class Theirs:
    """mmdet's `DetInferencer` on paths."""

    def __init__(self, model: str, batch: int, device: str, score_threshold: float | None):
        self.clock, self.batch = Clock(), batch
        file = read_model_file(model)
        cfg = Config(file.config)
        set_thresholds(cfg.model, file.name, score_threshold, None)
        device = None if device == 'auto' else device
        self.inferencer = DetInferencer(cfg, str(model), device=device, show_progress=False)
        self.clock.watch(self.inferencer.pipeline.transforms[0], 'transform', 'read')
        self.clock.watch(self.inferencer.model, 'forward', 'network')
        self.clock.watch(self.inferencer.model.roi_head.mask_head, 'predict_by_feat', 'paste')

    def __call__(self, paths: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        outputs = self.inferencer(
            [str(path) for path in paths],
            batch_size=self.batch,
            return_datasamples=True,  # else it would encode masks as text, too
            no_save_vis=True,
        )
        for output in outputs['predictions']:
            found = output.pred_instances
            yield found.labels.cpu().numpy(), found.masks.cpu().numpy()


def benchmark_inference(
    model: str,
    images: Path,
    onnx: Path | None = None,
    number: int = 64,
    batch: int = 8,
    repeats: int = 5,
    device: str = 'auto',
    score_threshold: float | None = None,
    cpu_time: bool = False,
    json_path: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Time each way in turn, `repeats` times, and print a table of medians.

    All read the same files and write a PNG file of labels for each. One pass before is not counted.

    Args:
        model: As of `load_model`.
        images: Folder of image files with one image each.
        onnx: The same model as ONNX; without it, that way is left out.
        number: Of images that are used, evenly spaced.
        batch: Images at once.
        repeats: Passes over the images, the ways taking turns.
        device: As of `load_model`.
        score_threshold: Of all ways.
        cpu_time: Count the processor time of all threads, on a machine that others use.
        json_path: Also write the figures there.

    Returns:
        By way: `images_per_s` and milliseconds per image by part.

    Raises:
        ModelError: If there are no images, or two ways do not find the same.
    """
    paths = sorted(path for path in images.rglob('*') if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ModelError(f'{images} has no images ({", ".join(SUFFIXES)}).')
    paths = [paths[int(i)] for i in np.linspace(0, len(paths) - 1, min(number, len(paths)))]
    settings = dict(batch=batch, device=device, score_threshold=score_threshold)
    ways: dict[str, Callable] = {
        'DetInferencer': Theirs(model, **settings),
        'ours, fp32': Ours(model, precision='fp32', **settings),
        'ours, bf16': Ours(model, precision='bf16', **settings),
    }
    if onnx is not None:
        ways['ours, ONNX'] = Ours(str(onnx), **settings)
    out = images.parent / 'benchmark_labels.png'
    if cpu_time:
        for way in ways.values():
            way.clock.timer = time.process_time
    passes: dict[str, list[Counter]] = {name: [] for name in ways}
    found: dict[str, list[np.ndarray]] = {}
    for turn in tqdm(range(repeats + 1), 'passes', unit='turn'):
        for name, way in ways.items():
            seconds, labels = one_pass(way, paths, out)
            found[name] = labels
            if turn:
                passes[name].append(seconds)
    first = next(iter(ways))
    for name in ways:
        agreement = dice(found[first], found[name])
        if agreement < MIN_DICE:
            raise ModelError(f'{first} and {name} find other things: Dice {agreement:.3f}.')
    figures = {
        name: dict(
            images_per_s=len(paths) / statistics.median(sum(p.values()) for p in of_way),
            dice=dice(found[first], found[name]),
            **{
                part: 1e3 * statistics.median(p[part] for p in of_way) / len(paths)
                for part in PARTS
            },
        )
        for name, of_way in passes.items()
    }
    print(table(figures, first))
    machine = (
        f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads; '
        f'torch {torch.__version__}, mmdet {mmdet.__version__}, '
        f'onnxruntime {onnxruntime.__version__}; {len(paths)} images, batches of {batch}; '
        f'{"processor time" if cpu_time else "time"}'
    )
    print(machine)
    if json_path is not None:
        json_path.write_text(json.dumps(dict(machine=machine, figures=figures), indent=2))
    return figures


def one_pass(way: Callable, paths: Sequence[Path], out: Path) -> tuple[Counter, list[np.ndarray]]:
    """Seconds by part, and labels (H, W) of each image."""
    way.clock.seconds.clear()
    drawn = []
    try:
        with way.clock.measuring('rest'):
            for labels, masks in way(paths):
                with way.clock.measuring('write'):
                    drawn.append(draw(labels, masks))
                    cv2.imwrite(str(out), drawn[-1])
    finally:
        out.unlink(missing_ok=True)
    return Counter(way.clock.seconds), drawn


def draw(labels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """uint8 (H, W), label + 1 of the best instance of each pixel, 0 for none."""
    image = np.zeros(masks.shape[1:], np.uint8)
    for label, mask in zip(labels[::-1], masks[::-1]):
        image[mask] = label + 1
    return image


def dice(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Of the pixels of any class, over all images."""
    same = sum(((a == b) & (a > 0)).sum() for a, b in zip(ours, theirs))
    both = sum((a > 0).sum() + (b > 0).sum() for a, b in zip(ours, theirs))
    return float(2 * same / both) if both else 1.0


def table(figures: dict[str, dict[str, float]], first: str) -> str:
    """Markdown."""
    lines = [
        f'| way | images/s | ratio | {" | ".join(f"{part} [ms]" for part in PARTS)} | Dice |',
        f'| --- | ---: | ---: | {" | ".join("---:" for _ in PARTS)} | ---: |',
    ]
    for name, row in figures.items():
        parts = ' | '.join(f'{row[part]:.1f}' for part in PARTS)
        ratio = row['images_per_s'] / figures[first]['images_per_s']
        lines.append(
            f'| {name} | {row["images_per_s"]:.1f} | {ratio:.2f} | {parts} | {row["dice"]:.4f} |'
        )
    return '\n'.join(lines)
