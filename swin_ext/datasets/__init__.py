from .cmr import CMRDataset, DatasetError
from .transforms import LoadCMRImage

__all__ = ['CMRDataset', 'DatasetError', 'LoadCMRImage']
