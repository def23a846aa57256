from swin_ext.datasets.cmr import CMRDataset
from swin_ext.datasets.errors import DatasetError
from swin_ext.datasets.transforms import LoadCMRImage

__all__ = ['CMRDataset', 'DatasetError', 'LoadCMRImage']
