"""Registers all that configs can name in MMEngine's registries, by importing it."""

from swin_ext import datasets, engine
from swin_ext.evaluation import cmr_metric, fast_coco_metric
from swin_ext.models import swin

__all__ = ['cmr_metric', 'datasets', 'engine', 'fast_coco_metric', 'swin']
