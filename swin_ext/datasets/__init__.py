from swin_ext.datasets.cmr import CMRDataset, DatasetError
from swin_ext.datasets.transforms import LoadCMRImage

__all__ = ['CMRDataset', 'DatasetError', 'LoadCMRImage']
