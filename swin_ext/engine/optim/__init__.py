from swin_ext.engine.optim.autocast_optim_wrapper import AutocastOptimWrapper
from swin_ext.engine.optim.grouped_constructor import GroupedOptimWrapperConstructor
from swin_ext.engine.optim.schedulers import GroupOneCycleLR, WarmupStepLR

__all__ = [
    'AutocastOptimWrapper',
    'GroupOneCycleLR',
    'GroupedOptimWrapperConstructor',
    'WarmupStepLR',
]
