from .hooks import ClassCheckHook
from .loops import EpochTrainLoopWithIterVal
from .runner import SwinExtRunner

__all__ = ['ClassCheckHook', 'EpochTrainLoopWithIterVal', 'SwinExtRunner']
