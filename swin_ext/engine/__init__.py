from swin_ext.engine.hooks import AdaptCheckpointHook, ClassCheckHook
from swin_ext.engine.loops import EpochTrainLoopWithIterVal, ResumableIterTrainLoop
from swin_ext.engine.optim import (
    AutocastOptimWrapper,
    GroupedOptimWrapperConstructor,
    GroupOneCycleLR,
    WarmupStepLR,
)
from swin_ext.engine.runner import SwinExtRunner
from swin_ext.engine.upstream_patches import patch_mmengine

patch_mmengine()

__all__ = [
    'AdaptCheckpointHook',
    'AutocastOptimWrapper',
    'ClassCheckHook',
    'EpochTrainLoopWithIterVal',
    'GroupOneCycleLR',
    'GroupedOptimWrapperConstructor',
    'ResumableIterTrainLoop',
    'SwinExtRunner',
    'WarmupStepLR',
]
