"""Position bias: a table of offsets between tokens, spread over the pairs of a window."""

from __future__ import annotations

import torch
from torch import Tensor


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, int64 of shape (N, N)."""
    axis = torch.arange(window)
    y, x = axis.repeat_interleave(window), axis.repeat(window)  # (N,) each
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]  # (N, N), -(window-1)..window-1
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def gather_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Spread a bias per offset, (M, nH), over pairs of tokens: (nH, N, N)."""
    bias = table[index.flatten()].view(*index.shape, -1)  # (N, N, nH)
    return bias.permute(2, 0, 1).contiguous()
