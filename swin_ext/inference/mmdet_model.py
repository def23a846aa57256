"""Inference by mmdet's own code, on what a model's file says."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn

import swin_ext.registration  # noqa: F401
from swin_ext.checkpoint.matching import load_weights
from swin_ext.checkpoint.model_file import ModelFile
from swin_ext.checkpoint.safe_reading import CheckpointError
from swin_ext.inference.model import Instances, ModelError, SegmentationModel
from swin_ext.inference.segmented_study import ModelIdentity

DTYPES = {'bf16': torch.bfloat16, 'fp16': torch.float16}
# Parts with classes of their own: an RPN tells objects from background, whatever their class.
NOT_HEADS = ('rpn_head', 'backbone')


class MMDetModel(SegmentationModel):
    """A detector of mmdet that makes masks; fp32 on a CPU gives what `mim test` gives, exactly.

    Args: as `load_model`, with the content of the file.

    Attributes:
        network: The detector, in evaluation mode.

    Raises:
        CheckpointError: If tensors of the file are not those of its config.
        ModelError: If a setting is impossible here.
    """

    def __init__(
        self,
        file: ModelFile,
        device: str = 'auto',
        precision: str = 'auto',
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ):
        self.classes = file.classes
        self.preprocessing = file.preprocessing
        self._device = choose_device(device)
        if precision == 'auto':
            precision = 'fp32' if self._device.type == 'cpu' else 'fp16'
        cfg = Config(file.config)
        threshold = set_thresholds(cfg.model, file.name, score_threshold, nms_threshold)
        self.network = build_network(cfg, file).to(self._device).eval()
        if precision in DTYPES:
            for part in feature_parts(self.network):
                compute_in(part, DTYPES[precision])
        self.identity = ModelIdentity(
            name=file.name,
            sha256=file.sha256,
            version=file.version,
            score_threshold=threshold,
            figures=file.figures,
        )
        self._transforms = Compose(cfg.test_dataloader.dataset.pipeline[1:])

    @torch.inference_mode()
    def _predict_batch(self, images: list[np.ndarray]) -> list[Instances]:
        samples = [self._sample(image) for image in images]
        data = self.network.data_preprocessor(pseudo_collate(samples), False)
        outputs = self.network(**data, mode='predict')
        return [self._instances(output.pred_instances) for output in outputs]

    def _sample(self, image: np.ndarray) -> dict:
        shape = image.shape[:2]
        return self._transforms(
            dict(img=image, img_path=None, img_id=0, img_shape=shape, ori_shape=shape)
        )

    def _instances(self, found: Any) -> Instances:
        found = found[found.scores >= self.identity.score_threshold]
        found = found[found.scores.argsort(descending=True, stable=True)]
        return Instances(
            labels=found.labels.cpu().numpy(),
            scores=found.scores.float().cpu().numpy(),
            boxes=found.bboxes.float().cpu().numpy(),
            masks=found.masks.cpu().numpy(),
        )


def feature_parts(network: nn.Module) -> list[nn.Module]:
    """What makes features of images, and most of the work; RoI heads, which place boxes, are not.

    Under autocast, mmdet rounds the places of RoIs to as few digits as those of the features.
    """
    parts = [network.backbone, *([network.neck] if getattr(network, 'with_neck', False) else [])]
    if getattr(network, 'with_rpn', False):
        parts += [part for part in network.rpn_head.modules() if isinstance(part, nn.Conv2d)]
    return parts


def compute_in(part: nn.Module, dtype: torch.dtype) -> None:
    """Let a module compute in a lower precision, and take and give float32.

    On a GPU, autocast keeps those operations in float32 that need it; on a CPU it casts the weights
    at each call.
    """
    device = next(part.parameters()).device.type
    casts = device == 'cpu'
    if casts:
        part.to(dtype)
    inner = part.forward

    def forward(x):
        with torch.autocast(device, dtype, enabled=not casts):
            return _cast(inner(_cast(x, dtype) if casts else x), torch.float32)

    part.forward = forward


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return (
        value.to(dtype)
        if isinstance(value, torch.Tensor)
        else tuple(_cast(v, dtype) for v in value)
    )


def choose_device(device: str) -> torch.device:
    """The device of this name; 'auto' is a GPU if there is one.

    Raises:
        ModelError: If there is no such device.
    """
    if device == 'auto':
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f'device={device!r} is none: give auto, cpu or cuda:0.') from error
    if chosen.type == 'cuda' and (chosen.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f'device={device!r}, but PyTorch sees {torch.cuda.device_count()} GPUs here. Give '
            'device=auto or cpu.'
        )
    return chosen


def set_thresholds(model: ConfigDict, name: str, score: float | None, nms: float | None) -> float:
    """Write thresholds into a model's config and return the score threshold that it has then.

    Boxes below the threshold are left out before the suppression of overlapping ones, which those
    of higher scores never depend on.

    Raises:
        ModelError: If one is not in 0..1, or the model has no place for it.
    """
    for key, value in dict(score_threshold=score, nms_threshold=nms).items():
        if value is not None and not 0 <= value <= 1:
            raise ModelError(f'{key}={value} must be from 0 to 1.')
    test_cfg = model.get('test_cfg') or ConfigDict()
    place = test_cfg.get('rcnn') or test_cfg  # of two-stage detectors; of one-stage ones
    if nms is not None:
        if not place.get('nms'):
            raise ModelError(f'{name} suppresses no overlapping boxes: leave nms_threshold out.')
        place.nms.iou_threshold = nms
    if score is None:
        return float(place.get('score_thr', 0.0))
    if 'score_thr' in place:
        place.score_thr = score
    return score


def build_network(cfg: Config, file: ModelFile) -> nn.Module:
    """The detector of a config with the weights of the file, every one of them.

    Raises:
        CheckpointError: If a tensor is missing, left over or of another shape, or a head has
            another number of classes.
    """
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(cfg.default_scope)
    network = MODELS.build(cfg.model)
    outcome = load_weights(network, dict(state_dict=OrderedDict(file.state_dict)), ())
    if outcome.unfit or outcome.unexpected:
        raise CheckpointError(
            f'The weights of {file.name} are not those of the config that it carries: '
            f'{outcome.report()}'
        )
    for name, module in network.named_modules():
        number = getattr(module, 'num_classes', None)
        if number is None or set(NOT_HEADS).intersection(name.split('.')):
            continue
        if number != len(file.classes):
            raise CheckpointError(
                f'{file.name}: {name} has {number} classes, but the file names '
                f'{len(file.classes)}: {", ".join(file.classes)}.'
            )
    return network
