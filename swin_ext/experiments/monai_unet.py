"""What a user would take instead of a detector: a U-Net of MONAI, trained and tested by the same
runner, data sets and metrics."""

from __future__ import annotations

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional

from swin_ext.engine.errors import SettingError
from swin_ext.utils.optional import import_optional

SMALLEST_SD = 1e-3  # of an image without contrast


@MODELS.register_module()
class MonaiUNet(BaseModel):
    """A 2-D network of MONAI as a semantic segmentation of classes and background.

    Images become of mean 0 and standard deviation 1, each for itself. The loss is MONAI's
    `DiceCELoss` over all classes and the background; that of a network with deep supervision is
    the mean over its outputs with weights 1, 1/2, 1/4, ... (as nnU-Net's,
    https://doi.org/10.1038/s41592-020-01008-z). Where annotated masks overlap, the later one
    counts.

    Predicted is the class of the highest probability, at each pixel of the original image. All
    pixels of a class are one instance, whose score is their mean probability and whose box is that
    around them; a class without pixels has none.

    Args:
        network: Name of a class of `monai.networks.nets` that takes `spatial_dims`, `in_channels`
            and `out_channels`: BasicUNet, DynUNet, UNet, AttentionUnet, ...
        num_classes: Without the background.
        network_args: Its other arguments.
        in_channels: Those of the images.
        data_preprocessor: `DetDataPreprocessor` that pads images and masks to what the network can
            halve.

    Raises:
        SettingError: If MONAI has no such network, or it does not take these arguments.
        MissingPackageError: If MONAI is not installed.
    """

    def __init__(
        self,
        network: str,
        num_classes: int,
        network_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        nets = import_optional('monai.networks.nets', 'MonaiUNet')
        losses = import_optional('monai.losses', 'MonaiUNet')
        if not isinstance(getattr(nets, network, None), type):
            raise SettingError(f'MonaiUNet: monai.networks.nets has no {network!r}.')
        arguments = dict(spatial_dims=2, in_channels=in_channels, out_channels=num_classes + 1)
        try:
            self.network = getattr(nets, network)(**arguments, **(network_args or {}))
        except (TypeError, ValueError) as error:
            raise SettingError(
                f'MonaiUNet: {network} does not take {network_args}: {error}'
            ) from error
        self.num_classes = num_classes
        self.loss = losses.DiceCELoss(to_onehot_y=True, softmax=True)

    def forward(
        self, inputs: Tensor, data_samples: list[DetDataSample], mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DetDataSample] | Tensor:
        """Compute what `mode` names.

        Args:
            inputs: (B, C, H, W), grey levels in any unit.
            data_samples: Of B images, with `gt_instances` for 'loss'.
            mode: 'loss', 'predict', or 'tensor' for the logits (B, 1 + classes, H, W).
        """
        logits = self.network(standardise(inputs))
        if mode == 'loss':
            return dict(loss=self._loss(logits, label_maps(data_samples, inputs.shape[-2:])))
        if logits.ndim == 5:  # deep supervision, where a training mode asks for a prediction
            logits = logits[:, 0]
        if mode == 'tensor':
            return logits
        for sample, of_image in zip(data_samples, logits):
            height, width = sample.img_shape
            probabilities = functional.interpolate(
                of_image[None, :, :height, :width].float(),
                sample.ori_shape[:2],
                mode='bilinear',
                align_corners=False,
            )[0].softmax(0)
            sample.pred_instances = class_instances(probabilities)
        return data_samples

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        outputs = logits.unbind(1) if logits.ndim == 5 else [logits]
        weights = [0.5**number for number in range(len(outputs))]
        losses = [self.loss(output.float(), labels) for output in outputs]
        return sum(w * loss for w, loss in zip(weights, losses)) / sum(weights)


def standardise(images: Tensor) -> Tensor:
    """Images (B, C, H, W) of mean 0 and standard deviation 1 each."""
    sd, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / sd.clamp(min=SMALLEST_SD)


def label_maps(samples: list[DetDataSample], size: tuple[int, int]) -> Tensor:
    """Int64 (B, 1, H, W): 0 for background, else 1 + label."""
    maps = []
    for sample in samples:
        instances = sample.gt_instances
        labels = instances.labels
        masks = instances.masks.to_tensor(torch.bool, labels.device)
        label_map = torch.zeros(tuple(size), dtype=torch.long, device=labels.device)
        for mask, label in zip(masks, labels):
            label_map[mask] = label + 1
        maps.append(label_map)
    return torch.stack(maps)[:, None]


def class_instances(probabilities: Tensor) -> InstanceData:
    """One instance for each class that is the most probable one anywhere.

    Args:
        probabilities: (1 + classes, H, W), the background first.

    Returns:
        `masks` (N, H, W) bool, `scores` (N,), `labels` (N,), `bboxes` (N, 4) as x0, y0, x1, y1.
    """
    winner = probabilities.argmax(0)
    labels = winner.unique()
    labels = labels[labels > 0] - 1
    masks = winner[None] == labels[:, None, None] + 1
    scores = [probabilities[label + 1][mask].mean() for label, mask in zip(labels, masks)]
    boxes = [
        torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        for rows, columns in (mask.nonzero(as_tuple=True) for mask in masks)
    ]
    return InstanceData(
        masks=masks,
        scores=torch.stack(scores) if scores else probabilities.new_zeros(0),
        labels=labels,
        bboxes=torch.stack(boxes).to(probabilities) if boxes else probabilities.new_zeros(0, 4),
    )
