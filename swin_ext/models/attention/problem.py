"""What an attention is asked to compute: the terms of a block, and what decides who can do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from swin_ext.models.attention.tracing import is_traced
from swin_ext.models.attention.windows import Windows


class AttentionTerms(NamedTuple):
    """What a block attends with.

    Attributes:
        project: (..., C) -> (..., 3 C), queries, keys and values, each by heads.
        padding: (3 C, ), what `project` makes of the zeros of padding; None for zeros.
        table: (M, nH), bias of each offset between tokens, added to the logits.
        index: (N, N), row of the table for each pair of tokens.
        scale: Factor of the products of queries and keys; not used with `logit_scale`.
        logit_scale: (nH, ), factor of the cosines that stand in for these products, or None.
        dropout_p: Share of the weights that is dropped.
    """

    project: Callable[[Tensor], Tensor]
    padding: Tensor | None
    table: Tensor
    index: Tensor
    num_heads: int
    scale: float
    logit_scale: Tensor | None
    dropout_p: float


class Problem(NamedTuple):
    """What an implementation has to know to say whether it serves.

    Attributes:
        dtype: Of queries, keys and values.
        shape: (B, H, W, C) of the map; numbers that an exporter leaves open are no ints.
    """

    device: torch.device
    dtype: torch.dtype
    shape: tuple[int, int, int, int]
    num_heads: int
    windows: Windows
    dropout_p: float

    @classmethod
    def of(cls, x: Tensor, terms: AttentionTerms, windows: Windows) -> Problem:
        dtype = x.dtype if is_traced() else projected_dtype(x)
        return cls(x.device, dtype, tuple(x.shape), terms.num_heads, windows, terms.dropout_p)


def projected_dtype(x: Tensor) -> torch.dtype:
    """Type that a linear layer with parameters of the type of `x` gives out."""
    kind = x.device.type
    if x.dtype == torch.float64 or kind not in ('cpu', 'cuda'):
        return x.dtype
    if hasattr(torch, 'get_autocast_dtype'):  # PyTorch 2.4
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    if kind == 'cuda':
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else x.dtype
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else x.dtype
