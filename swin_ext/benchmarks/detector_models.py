"""Whole Mask R-CNNs around Swin that do the same work, and what each takes as input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swin_ext.benchmarks.backbone_models import (
    DETECTOR_CONFIG,
    OWN,
    UnequalWorkError,
    build_detectors,
    build_torchvision,
    make_detector_batch,
    stage_channels,
)

NUM_CLASSES = 80
# torchvision's heads have rows of boxes and masks for the background, too.
PARAMETER_TOLERANCE = 0.01
PARTS = ('backbone', 'neck', 'RPN', 'RoI heads')


@dataclass(frozen=True)
class Detector:
    """A Mask R-CNN and how to use it.

    Args:
        model: On the device of the run.
        loss: Batch of `make_batch` to the sum of the losses.
        predict: The same batch to instances with masks of the size of the images.
        parts: The modules of `PARTS`, in their order.
    """

    model: nn.Module
    loss: Callable[[Any], Tensor]
    predict: Callable[[Any], Any]
    parts: tuple[nn.Module, ...]


def build(peers: tuple[str, ...], arch: dict, device: torch.device) -> dict[str, Detector]:
    """Build ours and the peers, mmdet's with the weights of ours.

    Instances of any score count, 100 an image, since no weights are trained.

    Raises:
        UnequalWorkError: If numbers of parameters differ by more than rows of the background.
    """
    own_and_mmdet = build_detectors(arch, device)
    detectors = {
        name: _of_mmdet(model)
        for name, model in own_and_mmdet.items()
        if name == OWN or name in peers
    }
    if 'torchvision' in peers:
        detectors['torchvision'] = _of_torchvision(arch, device)
    sizes = {
        name: sum(parameter.numel() for parameter in detector.model.parameters())
        for name, detector in detectors.items()
    }
    for name, size in sizes.items():
        if abs(size / sizes[OWN] - 1) > PARAMETER_TOLERANCE:
            raise UnequalWorkError(
                f'{name} has {size} parameters and {OWN} {sizes[OWN]}: they do not do the same '
                'work. Install another version of it or leave it out of --peers.'
            )
    return detectors


def make_batch(own: nn.Module, batch: int, size: tuple[int, int]) -> dict:
    """The same random images and objects, as mmdet and as torchvision take them.

    Args:
        own: Our detector.
        batch: Number of images.
        size: (H, W) in px, which mmdet's preprocessor pads, and torchvision's model itself.

    Returns:
        `mmdet`: see `make_detector_batch`; `torchvision`: a list of the images (3, H, W) and one
        of targets with `boxes`, `labels` from 1 and `masks`.
    """
    data = make_detector_batch(own, batch, size)
    H, W = size
    device = data['inputs'].device
    targets = [
        dict(
            boxes=sample.gt_instances.bboxes,
            labels=sample.gt_instances.labels + 1,
            masks=torch.from_numpy(sample.gt_instances.masks.masks[:, :H, :W]).to(device),
        )
        for sample in data['data_samples']
    ]
    return dict(mmdet=data, torchvision=(list(data['inputs'][..., :H, :W]), targets))


def _of_mmdet(model: nn.Module) -> Detector:
    model.test_cfg.rcnn.score_thr = 0.0
    model.roi_head.test_cfg.score_thr = 0.0

    def loss(batch: dict) -> Tensor:
        return model.parse_losses(model(**batch['mmdet'], mode='loss'))[0]

    def predict(batch: dict) -> Any:
        return model(**batch['mmdet'], mode='predict')

    return Detector(
        model, loss, predict, (model.backbone, model.neck, model.rpn_head, model.roi_head)
    )


def _of_torchvision(arch: dict, device: torch.device) -> Detector:
    """Sizes of proposals and samples are those of mmdet's Mask R-CNN."""
    from mmengine.config import Config
    from torchvision.models.detection import MaskRCNN
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    cfg = Config.fromfile(DETECTOR_CONFIG).model

    class Backbone(nn.Module):
        out_channels = cfg.neck.out_channels

        def __init__(self):
            super().__init__()
            self.body = build_torchvision(arch, (0, 0))
            self.fpn = FeaturePyramidNetwork(
                stage_channels(arch), self.out_channels, LastLevelMaxPool()
            )

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.fpn({str(i): x for i, x in enumerate(self.body(x))})

    train, test = cfg.train_cfg, cfg.test_cfg  # in mmdet's words
    model = MaskRCNN(
        Backbone(),
        NUM_CLASSES + 1,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_batch_size_per_image=train.rpn.sampler.num,
        rpn_pre_nms_top_n_train=train.rpn_proposal.nms_pre,
        rpn_post_nms_top_n_train=train.rpn_proposal.max_per_img,
        rpn_pre_nms_top_n_test=test.rpn.nms_pre,
        rpn_post_nms_top_n_test=test.rpn.max_per_img,
        box_batch_size_per_image=train.rcnn.sampler.num,
        box_score_thresh=0.0,
        box_detections_per_img=test.rcnn.max_per_img,
    ).to(device)
    model.transform.resize = lambda image, target=None: (image, target)  # else to 800 px

    def loss(batch: dict) -> Tensor:
        return sum(model(*batch['torchvision']).values())

    def predict(batch: dict) -> Any:
        return model(batch['torchvision'][0])

    return Detector(
        model, loss, predict, (model.backbone.body, model.backbone.fpn, model.rpn, model.roi_heads)
    )
