from .hooks import AdaptCheckpointHook, ClassCheckHook
from .loops import EpochTrainLoopWithIterVal, ResumableIterTrainLoop
from .optim import (
    AutocastOptimWrapper,
    GroupedOptimWrapperConstructor,
    GroupOneCycleLR,
    WarmupStepLR,
)
from .runner import SwinExtRunner
from .safe_checkpoint import patch_mmengine

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
