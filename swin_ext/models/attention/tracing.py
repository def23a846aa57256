"""Whether plain operations are wanted, in place of those with gradients written by hand."""

from __future__ import annotations

import torch
from torch import Tensor


def is_traced() -> bool:
    """Whether a compiler or an exporter is looking; these want plain operations and no caches."""
    # torch.compiler has is_compiling since torch 2.3.
    is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)
    return is_compiling() or torch.jit.is_tracing()


def is_exported() -> bool:
    """Whether the graph is for other programs than PyTorch, which have no operators of ours."""
    # torch.compiler has is_exporting since torch 2.7.
    is_exporting = getattr(torch.compiler, 'is_exporting', lambda: False)
    return is_exporting() or torch.jit.is_tracing() or torch.onnx.is_in_onnx_export()


def is_open(number: int | torch.SymInt | Tensor) -> bool:
    """Whether an exporter leaves a number open, so that nothing may be decided by it."""
    return not isinstance(number, int)


def may_use_functions(x: Tensor) -> bool:
    """Whether an `autograd.Function` may process `x`: it will be differentiated, and not traced."""
    return torch.is_grad_enabled() and x.requires_grad and not is_traced()
