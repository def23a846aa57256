"""Swin Mask R-CNN for cardiac MR on OpenMMLab; importing it registers everything."""
from . import datasets, engine, evaluation, models
from .version import __version__

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
