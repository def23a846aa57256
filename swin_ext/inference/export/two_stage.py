"""The forward of mmdet's Mask R-CNN, without what depends on the data in Python.

mmdet makes lists of objects by image, whose lengths Python looks at; an exporter cannot follow
(`rpn_head.py` of mmdet 3.3.0). Here proposals and boxes have a fixed number for each image, and
those that do not count have the score -1, until the masks: of these, as many are made as needed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules import DeltaXYWHBBoxCoder
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import Tensor, nn
from torchvision.ops import roi_align

from swin_ext.inference.export.suppression import grouped_nms
from swin_ext.inference.model import ModelError
from swin_ext.models.pixel_mask_roi_head import PixelMaskRoIHead

NOTHING = -1.0  # score of a place without a box


class Detections(NamedTuple):
    """Of all images of a batch, one after the other, each image's by falling score.

    Attributes:
        image: int64 (N,), index of the image in the batch.
        labels: int64 (N,).
        scores: float32 (N,).
        boxes: float32 (N, 4), in pixels of the network's input.
        masks: float32 (N, S, S), probabilities inside of the box.
    """

    image: Tensor
    labels: Tensor
    scores: Tensor
    boxes: Tensor
    masks: Tensor


class TwoStageForward(nn.Module):
    """Mask R-CNN on the weights of an mmdet detector; equal to its `predict`, before pasting.

    Args:
        detector: In evaluation mode.
        name: What errors call it.

    Raises:
        ModelError: If a part of the detector is of a kind that is not known here.
    """

    def __init__(self, detector: TwoStageDetector, name: str):
        super().__init__()
        check_kinds(detector, name)
        self.detector = detector
        self.rpn_cfg = detector.rpn_head.test_cfg
        self.rcnn_cfg = detector.roi_head.test_cfg

    def forward(
        self, images: Tensor, size: Tensor, score_threshold: Tensor, nms_threshold: Tensor
    ) -> Detections:
        """Detect.

        Args:
            images: (B, 3, H, W), normalised and padded.
            size: float32 (2,), height and width of the images before they were padded.
            score_threshold: float32 (1,); what has no higher score is left out.
            nms_threshold: float32 (1,), for boxes of a class.
        """
        maps = self.detector.neck(self.detector.backbone(images))
        proposals, valid = self.propose(maps, size)
        boxes, scores, labels = self.classify(
            maps, proposals, valid, size, score_threshold, nms_threshold
        )
        image, place = (scores > score_threshold).nonzero(as_tuple=True)
        boxes, scores, labels = boxes[image, place], scores[image, place], labels[image, place]
        head = self.detector.roi_head
        rois = torch.cat((image[:, None].to(boxes), boxes), dim=1)
        masks = self.draw(maps, rois).sigmoid()
        if head.mask_head.class_agnostic:
            masks = masks[:, 0]
        else:
            masks = masks.gather(1, labels[:, None, None, None].expand(-1, 1, *masks.shape[2:]))
            masks = masks[:, 0]
        return Detections(image, labels, scores, boxes, masks)

    def draw(self, maps: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Mask logits (N, classes, S, S) of RoIs (N, 5)."""
        head = self.detector.roi_head
        if isinstance(head, PixelMaskRoIHead):
            logits = head.pixel_logits(maps)
            return align(head.mask_roi_extractor.roi_layers[0], logits, rois, head.upsampling)
        return head.mask_head(pool(head.mask_roi_extractor, maps, rois))

    def propose(self, maps: tuple[Tensor, ...], size: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (B, P, 4) by falling score, and whether each is one (B, P)."""
        head, cfg = self.detector.rpn_head, self.rpn_cfg
        boxes, scores = [], []
        for level, (logits, deltas) in enumerate(map(head.forward_single, maps)):
            priors = grid_priors(head.prior_generator, level, logits.shape[2:])
            # (B, anchors, H, W) -> (B, H * W * anchors)
            objectness = logits.permute(0, 2, 3, 1).flatten(1).sigmoid()
            deltas = deltas.permute(0, 2, 3, 1).reshape(deltas.shape[0], -1, 4)
            # As many on each level, whatever its size.
            objectness = F.pad(objectness, (0, cfg.nms_pre), value=NOTHING)
            deltas = F.pad(deltas, (0, 0, 0, cfg.nms_pre))
            priors = F.pad(priors, (0, 0, 0, cfg.nms_pre))
            best, places = objectness.topk(cfg.nms_pre, dim=1)
            chosen = deltas.gather(1, places[..., None].expand(-1, -1, 4))
            found = decode(head.bbox_coder, priors[places], chosen, size)
            sides = found[..., 2:] - found[..., :2]
            large = (sides > cfg.get('min_bbox_size', -1)).all(-1)
            boxes.append(found)
            scores.append(best.where(large & (best >= 0), NOTHING))
        # A level is a group.
        kept = keep_best(
            torch.stack(boxes, dim=1).flatten(0, 1),
            torch.stack(scores, dim=1).flatten(0, 1),
            size.new_full((1,), cfg.nms.iou_threshold),
            size.new_zeros((1,)),
        )
        kept = kept.view(-1, len(maps) * cfg.nms_pre)
        kept = F.pad(kept, (0, cfg.max_per_img), value=NOTHING)
        boxes = F.pad(torch.cat(boxes, dim=1), (0, 0, 0, cfg.max_per_img))
        scores, places = kept.topk(cfg.max_per_img, dim=1)
        return boxes.gather(1, places[..., None].expand(-1, -1, 4)), scores > NOTHING

    def classify(
        self,
        maps: tuple[Tensor, ...],
        proposals: Tensor,
        valid: Tensor,
        size: Tensor,
        score_threshold: Tensor,
        nms_threshold: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (B, D, 4), scores and labels (B, D), by falling score; see `NOTHING`."""
        head, number = self.detector.roi_head, self.rcnn_cfg.max_per_img
        B, P = proposals.shape[:2]
        image = torch.arange(B, device=proposals.device)[:, None, None].expand(-1, P, 1)
        rois = torch.cat((image.to(proposals), proposals), dim=2).flatten(0, 1)
        logits, deltas = head.bbox_head(pool(head.bbox_roi_extractor, maps, rois))
        classes = head.bbox_head.num_classes
        scores = logits.softmax(-1)[:, :-1].view(B, P, classes)
        scores = scores.where(valid[..., None], NOTHING)
        if head.bbox_head.reg_class_agnostic:
            deltas = deltas.repeat(1, classes)
        deltas = deltas.view(B, P, classes, 4)
        priors = proposals[:, :, None].expand(-1, -1, classes, -1)
        boxes = decode(head.bbox_head.bbox_coder, priors, deltas, size)
        # A class is a group.
        by_class = boxes.transpose(1, 2).flatten(0, 1), scores.transpose(1, 2).flatten(0, 1)
        kept = keep_best(*by_class, nms_threshold, score_threshold)
        kept = F.pad(kept.view(B, classes * P), (0, number), value=NOTHING)
        boxes = F.pad(by_class[0].view(B, classes * P, 4), (0, 0, 0, number))
        scores, places = kept.topk(number, dim=1)
        boxes = boxes.gather(1, places[..., None].expand(-1, -1, 4))
        return boxes, scores, places.div(P, rounding_mode='floor')


def keep_best(boxes: Tensor, scores: Tensor, iou_threshold: Tensor, min_score: Tensor) -> Tensor:
    """The scores (G, K) of boxes (G, K, 4), `NOTHING` where one is suppressed in its group."""
    selected = grouped_nms(boxes, scores, iou_threshold, min_score)
    places = selected[:, 0] * scores.shape[1] + selected[:, 1]
    kept = torch.zeros_like(scores).flatten().index_fill(0, places, 1.0)
    return scores.where(kept.view_as(scores) > 0, NOTHING)


def grid_priors(generator: AnchorGenerator, level: int, shape: tuple[int, int]) -> Tensor:
    """Anchors (H * W * anchors, 4) of a level; `single_level_grid_priors` for sizes left open."""
    base = generator.base_anchors[level]
    stride_x, stride_y = generator.strides[level]
    x = torch.arange(shape[1], device=base.device).to(base) * stride_x
    y = torch.arange(shape[0], device=base.device).to(base) * stride_y
    y, x = torch.meshgrid(y, x, indexing='ij')
    shifts = torch.stack((x, y, x, y), dim=-1)
    return (shifts[:, :, None] + base.to(x.device)).view(-1, 4)


def decode(coder: DeltaXYWHBBoxCoder, priors: Tensor, deltas: Tensor, size: Tensor) -> Tensor:
    """Boxes (..., 4) of deltas (..., 4); mmdet's `delta2bbox`, with a size that is a tensor."""
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    centres = (priors[..., :2] + priors[..., 2:]) * 0.5
    sides = priors[..., 2:] - priors[..., :2]
    limit = abs(math.log(16 / 1000))
    centres = centres + sides * deltas[..., :2]
    sides = sides * deltas[..., 2:].clamp(-limit, limit).exp()
    width_height = size.flip(0)
    low = torch.minimum((centres - sides * 0.5).clamp(min=0), width_height)
    high = torch.minimum((centres + sides * 0.5).clamp(min=0), width_height)
    return torch.cat((low, high), dim=-1)


def pool(extractor: SingleRoIExtractor, maps: tuple[Tensor, ...], rois: Tensor) -> Tensor:
    """Features (K, C, S, S) of RoIs (K, 5), each from the map of its size."""
    levels = extractor.map_roi_levels(rois, len(extractor.roi_layers))
    layers = extractor.roi_layers
    features = maps[0].new_zeros((rois.shape[0], extractor.out_channels, *layers[0].output_size))
    for level, layer in enumerate(layers):
        places = (levels == level).nonzero()[:, 0]
        features = features.index_put((places,), align(layer, maps[level], rois[places]))
    return features


def align(layer: nn.Module, features: Tensor, rois: Tensor, upsampling: int = 1) -> Tensor:
    """RoIAlign with the settings of mmcv's layer, on a map that is `upsampling` times as large."""
    return roi_align(
        features,
        rois,
        layer.output_size,
        layer.spatial_scale * upsampling,
        layer.sampling_ratio,
        layer.aligned,
    )


def check_kinds(detector: nn.Module, name: str) -> None:
    """Raise a `ModelError` if a detector has a part that `TwoStageForward` does not reproduce."""

    def require(part, kind, **values):
        where = f'{name}: {type(part).__name__}'
        if type(part) is not kind and not (kind is TwoStageDetector and isinstance(part, kind)):
            raise ModelError(f'{where} cannot be exported to ONNX, {kind.__name__} can.')
        for key, value in values.items():
            if getattr(part, key) != value:
                raise ModelError(
                    f'{where} with {key}={getattr(part, key)!r} cannot be exported, {value!r} can.'
                )

    require(detector, TwoStageDetector)
    require(detector.rpn_head, RPNHead, use_sigmoid_cls=True)
    require(detector.rpn_head.prior_generator, AnchorGenerator)
    kind = type(detector.roi_head)
    kind = kind if kind is PixelMaskRoIHead else StandardRoIHead
    require(detector.roi_head, kind, share_roi_extractor=False)
    bbox_head = detector.roi_head.bbox_head
    if not isinstance(bbox_head, ConvFCBBoxHead):
        require(bbox_head, ConvFCBBoxHead)
    require(detector.roi_head.mask_head, FCNMaskHead)
    for coder in (detector.rpn_head.bbox_coder, bbox_head.bbox_coder):
        require(coder, DeltaXYWHBBoxCoder, clip_border=True, add_ctr_clamp=False)
    for extractor in (detector.roi_head.bbox_roi_extractor, detector.roi_head.mask_roi_extractor):
        require(extractor, SingleRoIExtractor)
        for layer in extractor.roi_layers:
            if type(layer).__name__ != 'RoIAlign' or layer.pool_mode != 'avg':
                raise ModelError(f'{name}: {layer} cannot be exported, RoIAlign by means can.')
    for cfg in (detector.rpn_head.test_cfg, detector.roi_head.test_cfg):
        if cfg.nms.type != 'nms':
            raise ModelError(f'{name}: nms.type={cfg.nms.type!r} cannot be exported, nms can.')
