from .hooks import ClassCheckHook
from .loops import EpochTrainLoopWithIterVal
from .runner import SwinExtRunner
from .safe_checkpoint import patch_mmengine

patch_mmengine()

__all__ = ['ClassCheckHook', 'EpochTrainLoopWithIterVal', 'SwinExtRunner']
