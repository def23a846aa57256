"""Networks that tell the class of each pixel, trained and tested as detectors are."""

from __future__ import annotations

import torch
from mmdet.structures import DetDataSample
from mmengine.model import BaseModel
from mmengine.structures import InstanceData
from torch import Tensor
from torch.nn import functional

from swin_ext.utils.optional import import_optional

SMALLEST_SD = 1e-3  # of an image without contrast


class PixelClassifier(BaseModel):
    """A semantic segmentation of classes and background; subclasses have the network.

    Images become of mean 0 and standard deviation 1, each for itself. The loss is MONAI's
    `DiceCELoss` over all classes and the background. Where annotated masks overlap, the later one
    counts.

    Predicted is the class of the highest probability, at each pixel of the original image. All
    pixels of a class are one instance, whose score is their mean probability and whose box is that
    around them; a class without pixels has none.

    Args:
        num_classes: Without the background.
        data_preprocessor: `DetDataPreprocessor` that pads images and masks to what the network can
            halve.

    Raises:
        MissingPackageError: If MONAI is not installed.
    """

    def __init__(
        self,
        num_classes: int,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor, init_cfg)
        losses = import_optional('monai.losses', type(self).__name__)
        self.num_classes = num_classes
        self.loss = losses.DiceCELoss(to_onehot_y=True, softmax=True)

    def logits(self, images: Tensor) -> Tensor:
        """What is predicted: (B, 1 + classes, H, W) of standardised images (B, C, H, W)."""
        raise NotImplementedError

    def weighted_logits(self, images: Tensor) -> list[tuple[float, Tensor]]:
        """What the loss is the sum over: weights, and logits like those of `logits`."""
        return [(1.0, self.logits(images))]

    def forward(
        self, inputs: Tensor, data_samples: list[DetDataSample], mode: str = 'tensor'
    ) -> dict[str, Tensor] | list[DetDataSample] | Tensor:
        """Compute what `mode` names.

        Args:
            inputs: (B, C, H, W), grey levels in any unit.
            data_samples: Of B images, with `gt_instances` for 'loss'.
            mode: 'loss', 'predict', or 'tensor' for the logits (B, 1 + classes, H, W).
        """
        images = standardise(inputs)
        if mode == 'loss':
            labels = label_maps(data_samples, inputs.shape[-2:])
            outputs = self.weighted_logits(images)
            return dict(loss=sum(w * self.loss(logits.float(), labels) for w, logits in outputs))
        logits = self.logits(images)
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
