from .cmr_augmentations import (
    CMRRandomBiasField,
    CMRRandomElastic,
    CMRRandomGamma,
    CMRRandomNoise,
    CMRRandomRotate,
)
from .load_cmr_image import LoadCMRImage

__all__ = [
    'CMRRandomBiasField', 'CMRRandomElastic', 'CMRRandomGamma', 'CMRRandomNoise',
    'CMRRandomRotate', 'LoadCMRImage'
]
