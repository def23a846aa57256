"""Registers all that configs can name in MMEngine's registries, by importing it."""

from swin_ext import registration_without_mmdet
from swin_ext.datasets import cmr, coco
from swin_ext.datasets.transforms import cmr_augmentations
from swin_ext.evaluation import cmr_metric, fast_coco_metric
from swin_ext.models import (
    async_preprocessor,
    device_masks,
    mask2former,
    pixel_mask_roi_head,
    shape_buckets,
)

__all__ = [
    'async_preprocessor',
    'cmr',
    'cmr_augmentations',
    'cmr_metric',
    'coco',
    'device_masks',
    'fast_coco_metric',
    'mask2former',
    'pixel_mask_roi_head',
    'registration_without_mmdet',
    'shape_buckets',
]
