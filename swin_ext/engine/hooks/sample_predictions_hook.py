"""Draws predictions over the ground truth at each validation."""

from __future__ import annotations

import contextlib
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import LocalVisBackend
from pycocotools import mask as mask_utils


@HOOKS.register_module()
class SamplePredictionsHook(Hook):
    """Write `predictions/iter_N.png` into the work_dir: the same images at each validation.

    They are evenly spaced over the validation set (with several ranks, over the part of the first),
    and drawn as by `tools/show_results.py`: the best prediction of each class, filled, under the
    ground truth, dashed, with score, IoU and Dice. TensorBoard and other remote backends get the
    picture as `val/predictions`. What cannot be drawn is warned of once; training goes on.

    Args:
        num_images: Images on the picture.
        score_thr: Lowest score drawn.
    """

    priority = 'LOW'

    def __init__(self, num_images: int = 8, score_thr: float = 0.3):
        if num_images < 1:
            raise ValueError(
                f'SamplePredictionsHook: num_images={num_images}, but at least one '
                'is needed; to draw none, take the hook out of custom_hooks'
            )
        self.num_images = num_images
        self.score_thr = score_thr
        self._gave_up = False
        self._failed_backends = set()

    def before_val_epoch(self, runner: Runner) -> None:
        total = len(runner.val_dataloader.sampler)
        chosen = np.linspace(0, total - 1, min(self.num_images, total)).round().astype(int)
        draws = is_main_process() and not self._gave_up
        self._chosen = set(chosen.tolist()) if draws else set()
        self._tiles, self._seen = [], 0

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        for index, sample in enumerate(outputs):
            if self._seen in self._chosen:
                with self._warn_and_give_up(runner):
                    self._tiles.append(
                        make_tile(data_batch['inputs'][index], sample, self.score_thr)
                    )
            self._seen += 1

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        if not self._tiles:
            return
        with self._warn_and_give_up(runner):
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            from swin_ext.visualization.overlays import draw_sheet

            names = dict(enumerate(runner.val_dataloader.dataset.metainfo['classes']))
            canvas = FigureCanvasAgg(draw_sheet(self._tiles, names, self.score_thr))
            canvas.draw()
            picture = np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])
            path = Path(runner.work_dir) / 'predictions' / f'iter_{runner.iter}.png'
            path.parent.mkdir(exist_ok=True)
            if not cv2.imwrite(
                str(path),
                cv2.cvtColor(picture, cv2.COLOR_RGB2BGR),
                (cv2.IMWRITE_PNG_COMPRESSION, 3),
            ):
                raise OSError(f'{path} could not be written')
            self._to_backends(picture, runner)

    def _to_backends(self, picture: np.ndarray, runner: Runner) -> None:
        for name, backend in runner.visualizer._vis_backends.items():
            # LocalVisBackend would write the same file elsewhere.
            if isinstance(backend, LocalVisBackend) or name in self._failed_backends:
                continue
            try:
                backend.add_image('val/predictions', picture, runner.iter)
            except Exception as error:  # MLflow, for one, wants a file name
                self._failed_backends.add(name)
                runner.logger.warning(
                    f'SamplePredictionsHook: {name} takes no picture, the file '
                    f'in predictions/ remains: {type(error).__name__}: {error}'
                )

    @contextlib.contextmanager
    def _warn_and_give_up(self, runner: Runner):
        """No picture is worth a training."""
        try:
            yield
        except Exception as error:
            self._gave_up = True
            self._tiles, self._chosen = [], set()
            runner.logger.warning(
                f'SamplePredictionsHook draws nothing from here on: {type(error).__name__}: {error}'
            )


def make_tile(inputs: torch.Tensor, sample: BaseDataElement, score_thr: float):
    """One image of the picture.

    Args:
        inputs: The image as the model was given it, (C, H, W); its middle channel is drawn, which
            of a stack of slices is the slice that is segmented.
        sample: `pred_instances` and `gt_instances` with `labels` and `masks`, the masks of the
            image's original size, and that size as `ori_shape`.
        score_thr: Lowest score drawn.

    Returns:
        swin_ext.visualization.overlays.Tile

    Raises:
        ValueError: If masks are missing.
    """
    from swin_ext.visualization.overlays import Tile

    for part, advice in (
        ('pred_instances', 'it needs a model that predicts masks'),
        (
            'gt_instances',
            "give the validation pipeline dict(type='LoadAnnotations', "
            'with_bbox=True, with_mask=True), after the resizing',
        ),
    ):
        if part not in sample or 'masks' not in getattr(sample, part):
            raise ValueError(f'there are no masks in the {part}; {advice}')
    height, width = sample.ori_shape[:2]
    channel = inputs[len(inputs) // 2].cpu().numpy().astype(np.float32)
    image = cv2.resize(channel, (width, height), interpolation=cv2.INTER_AREA)
    if inputs.is_floating_point():
        image = 255 * (image - image.min()) / max(float(np.ptp(image)), 1e-6)
    truth = {}
    for index, label in enumerate(sample.gt_instances.labels.tolist()):
        mask = to_mask(sample.gt_instances.masks, index)
        truth[label] = truth[label] | mask if label in truth else mask
    predictions = {}
    instances = sample.pred_instances
    for index in instances.scores.argsort(descending=True).tolist():
        label, score = int(instances.labels[index]), float(instances.scores[index])
        if score >= score_thr and label not in predictions:
            predictions[label] = to_mask(instances.masks, index), score
    return Tile(
        title=Path(sample.get('img_path', '')).name,
        image=image.round().astype(np.uint8),
        truth={label: mask for label, mask in truth.items() if mask.any()},
        predictions=predictions,
    )


def to_mask(masks, index: int) -> np.ndarray:
    """Boolean (H, W) mask of an instance, from tensors, run-length codes or mmdet's structures."""
    if hasattr(masks, 'to_ndarray'):
        return masks[[index]].to_ndarray()[0].astype(bool)
    if isinstance(masks[index], dict):
        return mask_utils.decode(masks[index]).astype(bool)
    return torch.as_tensor(masks[index]).cpu().numpy().astype(bool)
