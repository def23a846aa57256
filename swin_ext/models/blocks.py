"""Attention, blocks and stages of Swin V1.

Feature maps are channels-last, (B, H, W, C); windows are (B * nW, N, C), nW to an image and N
tokens to a window.
"""

from __future__ import annotations

import torch
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_ext.models.attention.dispatch import window_attention
from swin_ext.models.attention.tracing import is_open
from swin_ext.models.attention.windows import WindowGrid, from_windows, to_windows, window_grid
from swin_ext.models.layers import DropPath, FeedForward


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


class WindowAttention(nn.Module):
    """Multi-head self-attention with relative position bias inside each window.

    Args:
        attn_impl: Key of `dispatch.IMPLEMENTATIONS`, or 'auto'.
    """

    def __init__(
        self, dim, num_heads, window, qkv_bias, qk_scale, attn_drop_rate, proj_drop_rate, attn_impl
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.attn_drop_rate = attn_drop_rate
        self.attn_impl = attn_impl
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        self.register_buffer('relative_position_index', relative_position_index(window))
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def position_bias(self) -> Tensor:
        """Relative position bias, (nH, N, N)."""
        return gather_position_bias(self.relative_position_bias_table, self.relative_position_index)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: (B * nW, N, C).
            mask: (nW, 1, N, N), added to the logits.

        Returns:
            (B * nW, N, C).
        """
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads)
        x = window_attention(
            qkv,
            self.position_bias(),
            mask,
            self.scale,
            self.attn_drop_rate if self.training else 0.0,
            self.attn_impl,
        )
        return self.proj_drop(self.proj(x.reshape(B, N, C)))


class ShiftedWindowAttention(nn.Module):
    """Cut the map into windows, attend, and put it together again."""

    def __init__(self, w_msa: nn.Module):
        super().__init__()
        self.w_msa = w_msa

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        windows = self.w_msa(to_windows(x, grid), grid.mask)
        return from_windows(windows, grid, *x.shape[:3])


class SwinBlock(nn.Module):
    attention_class = WindowAttention

    def __init__(
        self,
        dim,
        num_heads,
        window,
        mlp_ratio,
        drop_rate,
        drop_path_rate,
        with_cp,
        **attention_kwargs,
    ):
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShiftedWindowAttention(
            self.attention_class(
                dim, num_heads, window, proj_drop_rate=drop_rate, **attention_kwargs
            )
        )
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, int(mlp_ratio * dim), drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def init_weights(self) -> None:
        """Initialise what is no linear layer."""
        trunc_normal_(self.attn.w_msa.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, grid, use_reentrant=False)
        return self._forward(x, grid)

    def _forward(self, x, grid):
        x = self.drop_path(self.attn(self.norm1(x), grid), x)
        return self.drop_path(self.ffn(self.norm2(x)), x)


class SwinStage(nn.Module):
    """Blocks on one resolution, every second one with shifted windows, then a downsampling."""

    def __init__(
        self,
        block_class,
        dim,
        window,
        shift_single_window,
        drop_path_rates,
        downsample,
        **block_kwargs,
    ):
        super().__init__()
        self.window = window
        self.shift_single_window = shift_single_window
        self.blocks = nn.ModuleList(
            block_class(dim=dim, window=window, drop_path_rate=rate, **block_kwargs)
            for rate in drop_path_rates
        )
        self.downsample = downsample

    def _shift(self, size: int) -> int | Tensor:
        """Tokens to shift by along a side of the map that is `size` tokens long."""
        if is_open(size) and not self.shift_single_window:
            is_shifted = torch.scalar_tensor(size, dtype=torch.int64) > self.window
            return is_shifted * (self.window // 2)
        return self.window // 2 if size > self.window or self.shift_single_window else 0

    def window_grids(self, x: Tensor) -> tuple[WindowGrid, WindowGrid]:
        """Grids of the plain and of the shifted blocks, for a map (B, H, W, C)."""
        H, W = x.shape[1:3]
        return (
            window_grid(H, W, self.window, (0, 0), like=x),
            window_grid(H, W, self.window, (self._shift(H), self._shift(W)), like=x),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); downsampling is left to the caller, who needs both."""
        grids = self.window_grids(x)
        for j, block in enumerate(self.blocks):
            x = block(x, grids[j % 2])
        return x
