"""Metrics, clinical figures and their tables; the metrics, which need mmdet, on first use."""

from importlib import import_module

_METRICS = {
    'CMRMetric': 'swin_ext.evaluation.cmr_metric',
    'FastCocoMetric': 'swin_ext.evaluation.fast_coco_metric',
}
__all__ = ['CMRMetric', 'FastCocoMetric']


def __getattr__(name: str):
    if name not in _METRICS:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(import_module(_METRICS[name]), name)
