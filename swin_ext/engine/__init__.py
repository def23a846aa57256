from swin_ext.engine.hooks import AdaptCheckpointHook, ClassCheckHook
from swin_ext.engine.loops import EpochTrainLoopWithIterVal, ResumableIterTrainLoop
from swin_ext.engine.optim import (
    AutocastOptimWrapper,
    GroupedOptimWrapperConstructor,
    GroupOneCycleLR,
    WarmupStepLR,
)
from swin_ext.engine.runner import SwinExtRunner
from swin_ext.engine.terminal import is_first_to_tell, log_traceback
from swin_ext.engine.upstream_patches import patch_mmengine
from swin_ext.engine.validation_loss import ValLoopWithLoss
from swin_ext.utils.program import install_excepthook

patch_mmengine()
install_excepthook(log_traceback, is_first_to_tell)

__all__ = [
    'AdaptCheckpointHook',
    'AutocastOptimWrapper',
    'ClassCheckHook',
    'EpochTrainLoopWithIterVal',
    'GroupOneCycleLR',
    'GroupedOptimWrapperConstructor',
    'ResumableIterTrainLoop',
    'SwinExtRunner',
    'ValLoopWithLoss',
    'WarmupStepLR',
]
