from .autocast_optim_wrapper import AutocastOptimWrapper
from .grouped_constructor import GroupedOptimWrapperConstructor
from .schedulers import GroupOneCycleLR, WarmupStepLR

__all__ = [
    'AutocastOptimWrapper', 'GroupOneCycleLR', 'GroupedOptimWrapperConstructor', 'WarmupStepLR'
]
