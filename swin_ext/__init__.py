"""Swin Mask R-CNN for cardiac MR on OpenMMLab; importing it registers everything."""

from swin_ext import datasets, engine, evaluation, models
from swin_ext.version import __version__

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
