"""The CMR data set and its transforms; what derives from mmdet's classes, on first use."""

from importlib import import_module

_PLACES = {
    'CMRDataset': 'swin_ext.datasets.cmr',
    'CMRImageBackend': 'swin_ext.datasets.image_backend',
    'CocoFileDataset': 'swin_ext.datasets.coco',
    'DatasetError': 'swin_ext.datasets.errors',
    'LoadCMRImage': 'swin_ext.datasets.transforms.load_cmr_image',
}
__all__ = ['CMRDataset', 'CMRImageBackend', 'CocoFileDataset', 'DatasetError', 'LoadCMRImage']


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_PLACES[name]), name)
