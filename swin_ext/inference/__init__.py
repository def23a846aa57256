"""A trained model and a study in; masks, files and figures out."""

from swin_ext.inference.model import Instances, SegmentationModel, load_model

__all__ = ['Instances', 'SegmentationModel', 'load_model']
