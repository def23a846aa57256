"""Compiles the backbone of a model for training: `compile_backbone` of a config."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from swin_ext.engine.errors import SettingError

OPTIONS = ('backend', 'mode', 'options', 'fullgraph')  # of torch.compile
ON_CPU = (
    'compile_backbone: the backbone is not compiled. On CPUs that takes minutes for each size of '
    'images, and a step of Swin is then 5 % faster.'
)
WITHOUT_BUCKETS = (
    'compile_backbone: batches are padded to no few sizes, and each new one is compiled for a '
    'minute. Unless all images are of one size, add to model.data_preprocessor: '
    "batch_augments=[dict(type='BatchPadToBuckets', sizes=[(800, 1344), (1344, 800)])]."
)


def compile_backbone(model: nn.Module, setting: bool | dict, logger: logging.Logger) -> None:
    """Let the backbone of a model run compiled while it trains; in place.

    Names in checkpoints, hooks and copies of the model are as before. Evaluation, whose images are
    of any size, is not compiled. A program is made for each size of a batch, and again when
    frozen stages change.

    Args:
        model: A detector or segmentor, not wrapped, on its device.
        setting: True, or arguments of `torch.compile`: `backend`, `mode` ('reduce-overhead' with
            CUDA graphs), `options`, `fullgraph`. False does nothing.
        logger: Is told what is done, or why not.

    Raises:
        SettingError: If `setting` is something else, or there is no backbone.
    """
    if not setting:
        return
    options = {} if setting is True else dict(setting)
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise SettingError(
            f'compile_backbone has {", ".join(unknown)}, but takes {", ".join(OPTIONS)}: sizes are '
            'fixed (dynamic=False), since open ones take kernels that are slower.'
        )
    backbone = getattr(model, 'backbone', None)
    if not isinstance(backbone, nn.Module):
        raise SettingError(f'compile_backbone: {type(model).__name__} has no backbone.')
    if hasattr(type(backbone), 'compiled_with'):
        return
    on_cpu = next(backbone.parameters()).device.type == 'cpu'
    if on_cpu and options.get('backend', 'inductor') == 'inductor':
        logger.warning(ON_CPU)
        return
    sizes = number_of_sizes(model)
    if sizes is None:
        logger.warning(WITHOUT_BUCKETS)
    else:
        allow_recompilations(2 * sizes)
    backbone.__class__ = compiled_in_training(type(backbone), options)
    logger.info(f'compile_backbone: {type(backbone).__name__} with {options or "defaults"}.')


def number_of_sizes(model: nn.Module) -> int | None:
    """How many sizes the batches of a training have; None where that is not known."""
    augments = getattr(getattr(model, 'data_preprocessor', None), 'batch_augments', None) or ()
    numbers = [len(each.sizes) for each in augments if type(each).__name__ == 'BatchPadToBuckets']
    return numbers[-1] if numbers else None


def compiled_in_training(kind: type[nn.Module], options: dict[str, Any]) -> type[nn.Module]:
    """The class `kind` with a forward pass that is compiled in training.

    A function of the module and its input is compiled, and not the module: so nothing is added to
    the module that its copies (averaged weights) would share, or that would name its parameters.
    """
    compiled = torch.compile(kind.forward, dynamic=False, **options)

    def forward(self: nn.Module, x: torch.Tensor) -> Any:
        if self.training and torch.is_grad_enabled():
            return compiled(self, x)
        return kind.forward(self, x)

    return type(
        f'Compiled{kind.__name__}',
        (kind,),
        {'__doc__': kind.__doc__, 'forward': forward, 'compiled_with': options},
    )


def allow_recompilations(number: int) -> None:
    """PyTorch gives up compiling a function after 8 programs of it."""
    config = torch._dynamo.config
    name = 'recompile_limit' if hasattr(config, 'recompile_limit') else 'cache_size_limit'
    setattr(config, name, max(number, getattr(config, name)))
