from swin_ext.datasets.transforms.cmr_augmentations import (
    CMRRandomBiasField,
    CMRRandomElastic,
    CMRRandomGamma,
    CMRRandomNoise,
    CMRRandomRotate,
)
from swin_ext.datasets.transforms.load_cmr_image import LoadCMRImage

__all__ = [
    'CMRRandomBiasField',
    'CMRRandomElastic',
    'CMRRandomGamma',
    'CMRRandomNoise',
    'CMRRandomRotate',
    'LoadCMRImage',
]
