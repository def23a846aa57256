from .cmr_metric import CMRMetric
from .fast_coco_metric import FastCocoMetric

__all__ = ['CMRMetric', 'FastCocoMetric']
