from .adapt_checkpoint_hook import AdaptCheckpointHook
from .class_check_hook import ClassCheckHook

__all__ = ['AdaptCheckpointHook', 'ClassCheckHook']
