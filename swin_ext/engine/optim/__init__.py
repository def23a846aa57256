from swin_ext.engine.optim.autocast_optim_wrapper import AutocastOptimWrapper
from swin_ext.engine.optim.grouped_constructor import GroupedOptimWrapperConstructor
from swin_ext.engine.optim.schedulers import GroupOneCycleLR, WarmupStepLR
from swin_ext.engine.optim.update_guard import GuardedOptimWrapper

__all__ = [
    'AutocastOptimWrapper',
    'GroupOneCycleLR',
    'GroupedOptimWrapperConstructor',
    'GuardedOptimWrapper',
    'WarmupStepLR',
]
