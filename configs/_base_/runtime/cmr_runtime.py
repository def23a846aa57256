# What every run has: logs by iteration, the best checkpoint, TensorBoard, checks of the classes.
default_scope = 'mmdet'
runner_type = 'SwinExtRunner'

default_hooks = dict(
    runtime_info=dict(type='AsyncRuntimeInfoHook'),
    timer=dict(type='IterTimerHook'),
    logger=dict(type='TerminalLoggerHook', interval=20, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=200, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='DetVisualizationHook'),
)
custom_hooks = [
    dict(type='ClassCheckHook'),
    dict(type='AdaptCheckpointHook'),
    dict(type='BestCheckpointHook', metric='coco/segm_mAP'),
    dict(type='NonFiniteLossHook'),
    dict(type='SamplePredictionsHook'),
    dict(type='HistoryHook'),
    dict(type='ResultsTableHook'),
    dict(type='ProgressBarHook'),
    dict(type='PreemptionHook'),
    dict(type='GPUStatsHook'),
]
log_processor = dict(type='LogProcessor', by_epoch=False, window_size=20)

vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),  # gloo where there is no GPU
)
log_level = 'INFO'
load_from = None
resume = False
