from .hooks import AdaptCheckpointHook, ClassCheckHook
from .loops import EpochTrainLoopWithIterVal
from .runner import SwinExtRunner
from .safe_checkpoint import patch_mmengine

patch_mmengine()

__all__ = ['AdaptCheckpointHook', 'ClassCheckHook', 'EpochTrainLoopWithIterVal', 'SwinExtRunner']
