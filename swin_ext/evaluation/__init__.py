from swin_ext.evaluation.cmr_metric import CMRMetric
from swin_ext.evaluation.fast_coco_metric import FastCocoMetric

__all__ = ['CMRMetric', 'FastCocoMetric']
