from swin_ext.datasets.cmr import CMRDataset
from swin_ext.datasets.coco import CocoFileDataset
from swin_ext.datasets.errors import DatasetError
from swin_ext.datasets.image_backend import CMRImageBackend
from swin_ext.datasets.transforms import LoadCMRImage

__all__ = ['CMRDataset', 'CMRImageBackend', 'CocoFileDataset', 'DatasetError', 'LoadCMRImage']
