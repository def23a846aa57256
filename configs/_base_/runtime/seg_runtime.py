# What every run of MMSegmentation has: as cmr_runtime.py, without what is of detection.
_base_ = ['cmr_runtime.py']

default_scope = 'mmseg'

default_hooks = dict(visualization=dict(type='SegVisualizationHook'))
custom_hooks = [
    dict(type='ClassCheckHook'),
    dict(type='AdaptCheckpointHook'),
    dict(type='BestCheckpointHook', metric='mIoU'),
    dict(type='NonFiniteLossHook'),
    dict(type='HistoryHook'),
    dict(type='ProgressBarHook'),
    dict(type='PreemptionHook'),
    dict(type='GPUStatsHook'),
]
visualizer = dict(type='SegLocalVisualizer')
