from .cmr import CMRDataset, DatasetError

__all__ = ['CMRDataset', 'DatasetError']
