"""Registers what derives from no class of mmdet, for configs of any OpenMMLab package."""

from swin_ext import engine
from swin_ext.datasets import image_backend
from swin_ext.datasets.transforms import load_cmr_image
from swin_ext.models import swin

__all__ = ['engine', 'image_backend', 'load_cmr_image', 'swin']
