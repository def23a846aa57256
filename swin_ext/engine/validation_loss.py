"""A validation that has the losses of training among its figures."""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from mmcv.transforms import Resize
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import ValLoop
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from swin_ext.engine.errors import SettingError
from swin_ext.engine.resumable_data import VALIDATION, seed_everything

TRUTHS = ('gt_instances', 'gt_sem_seg')


@LOOPS.register_module()
class ValLoopWithLoss(ValLoop):
    """MMEngine's `ValLoop`, with the model's losses on the validation set among the figures.

    They are `val/loss`, `val/loss_cls` and so on, for `ReduceOnPlateauLR`, early stopping, the best
    checkpoint or a look at overfitting. Each is the mean over the images of the data set, taken one
    by one: it depends neither on `batch_size` nor on the number of ranks (but for heads whose ranks
    exchange how many positives they have), and is the same on each. Computing it changes nothing:
    no running statistic is updated, nothing is dropped, and random numbers (for the sampling of
    proposals) are the same for each image and at each validation, none of them the training's. A
    validation takes about twice as long.

    The pipeline must load annotations, before or after it resizes. Other changes of geometry
    before annotations are loaded are not followed.

    Raises:
        SettingError: If samples have no ground truth, or the model has no loss.
    """

    figures = ('val/loss',)

    def run(self) -> dict:
        """Validate as upstream does, and add the losses before hooks see the figures."""
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        self._sums, self._seen, self._counted = defaultdict(float), 0, 0
        for idx, data_batch in enumerate(self.dataloader):
            self._add_losses(data_batch)
            self.run_iter(idx, data_batch)
        metrics = self.evaluator.evaluate(len(self.dataloader.dataset))
        metrics.update(self._means())
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    @torch.no_grad()
    def _add_losses(self, data_batch: dict) -> None:
        """Losses of each image of a batch; it is left as it is."""
        model = self.runner.model
        model = model.module if is_model_wrapper(model) else model
        with _as_in_training(model), _random_numbers_of_its_own():
            for inputs, sample in zip(data_batch['inputs'], data_batch['data_samples']):
                with autocast(enabled=self.fp16):
                    losses = self._losses(model, inputs, copy.deepcopy(sample))
                # Samplers of several ranks fill up the last round with images that were seen.
                place = self._seen * get_world_size() + get_rank()
                self._seen += 1
                if place < len(self.dataloader.dataset):
                    self._counted += 1
                    for name, value in losses.items():
                        self._sums[name] += float(value)

    def _losses(self, model: nn.Module, inputs: Tensor, sample: BaseDataElement) -> dict:
        if not any(name in sample for name in TRUTHS):
            raise SettingError(
                'ValLoopWithLoss: validation samples have no ground truth. Give the pipeline of '
                "val_dataloader dict(type='LoadAnnotations', ...), or set val_cfg.type=ValLoop."
            )
        seed_everything(0, VALIDATION)
        with _without_batch_augments(model.data_preprocessor) as preprocess:
            # A batch of one, as `pseudo_collate` makes it; padded with its masks as for training.
            if self._loads_after_resizing():
                resize_truth(sample)
            data = preprocess(dict(inputs=[inputs], data_samples=[sample]), True)
        losses = model(**data, mode='loss')
        if not isinstance(losses, dict):
            raise SettingError(
                f'ValLoopWithLoss: {type(model).__name__} has no losses. Set val_cfg.type=ValLoop.'
            )
        return model.parse_losses(losses)[1]

    def _loads_after_resizing(self) -> bool:
        """Whether ground truth is of the image before it was resized, as mmdet has it."""
        pipeline = getattr(self.dataloader.dataset, 'pipeline', None)
        steps = list(getattr(pipeline, 'transforms', ()))
        loads = [i for i, step in enumerate(steps) if 'LoadAnnotations' in type(step).__name__]
        return bool(loads) and any(isinstance(step, Resize) for step in steps[: loads[0]])

    def _means(self) -> dict[str, float]:
        """Means over all ranks. Each has seen as many images, so that each has all names."""
        names = sorted(self._sums)
        sums = torch.tensor([*(self._sums[name] for name in names), self._counted], dtype=float)
        all_reduce(sums)
        return {f'val/{name}': float(value / sums[-1]) for name, value in zip(names, sums)}


def resize_truth(sample: BaseDataElement) -> None:
    """Bring boxes, masks and labels of pixels from the original size to that of the input.

    Args:
        sample: With `ori_shape`, `img_shape` and `scale_factor` (width, height); changed in place.
    """
    shape = tuple(sample.img_shape[:2])
    if shape == tuple(sample.ori_shape[:2]):
        return
    for instances in (sample.get('gt_instances'), sample.get('ignored_instances')):
        if instances is None:
            continue
        boxes = instances.get('bboxes')
        if hasattr(boxes, 'rescale_'):  # mmdet's box types
            boxes.rescale_(sample.scale_factor)
            boxes.clip_(shape)
        elif boxes is not None:
            instances.bboxes = boxes * boxes.new_tensor(sample.scale_factor).repeat(2)
        if 'masks' in instances:
            instances.masks = instances.masks.resize(shape)
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.sem_seg
        resized = nn.functional.interpolate(labels[None].float(), size=shape, mode='nearest')
        sample.gt_sem_seg = type(sample.gt_sem_seg)(sem_seg=resized[0].to(labels.dtype))


@contextmanager
def _as_in_training(model: nn.Module) -> Iterator[None]:
    """Let detectors and heads take the way of training, and all layers that of evaluation.

    Some heads compute what a loss needs in training mode alone (denoising queries of DINO); norms,
    dropout and stochastic depth belong to modules without a `loss`.
    """
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = callable(getattr(module, 'loss', None))
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def _random_numbers_of_its_own() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _without_batch_augments(preprocessor: nn.Module) -> Iterator[nn.Module]:
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is None:
        yield preprocessor
        return
    preprocessor.batch_augments = None
    try:
        yield preprocessor
    finally:
        preprocessor.batch_augments = augments
