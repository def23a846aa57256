"""Attention, blocks and stages of Swin V1.

Feature maps are channels-last, (B, H, W, C); nW windows of N tokens each cover an image.
"""

from __future__ import annotations

import torch
from mmengine.model.weight_init import trunc_normal_
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_ext.models.attention.dispatch import window_attention
from swin_ext.models.attention.position_bias import relative_position_index
from swin_ext.models.attention.problem import AttentionTerms
from swin_ext.models.attention.tracing import is_open, is_traced
from swin_ext.models.attention.windows import Windows
from swin_ext.models.layers import DropPath, FeedForward


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

    def terms(self, x: Tensor) -> AttentionTerms:
        """What it attends with in a map `x`."""
        return AttentionTerms(
            project=self.qkv,
            padding=self.qkv.bias,
            table=self.relative_position_bias_table,
            index=self.relative_position_index,
            num_heads=self.num_heads,
            scale=self.scale,
            logit_scale=None,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
        )

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        attended = window_attention(x, self.terms(x), windows, self.attn_impl)
        return self.proj_drop(self.proj(attended))


class ShiftedWindowAttention(nn.Module):
    """Holds the attention under the name that mmdet's parameters have."""

    def __init__(self, w_msa: nn.Module):
        super().__init__()
        self.w_msa = w_msa

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.w_msa(x, windows)


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

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, windows, use_reentrant=False)
        return self._forward(x, windows)

    def _forward(self, x, windows):
        x = self.drop_path(self.attn(self.norm1(x), windows), x)
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

    def windows(self, x: Tensor) -> tuple[Windows, Windows]:
        """Of the plain and of the shifted blocks, for a map (B, H, W, C)."""
        size = tuple(x.shape[1:3])
        both = (
            Windows(size, self.window, (0, 0)),
            Windows(size, self.window, tuple(map(self._shift, size))),
        )
        if is_traced():  # what is made within a checkpoint may not leave it then
            for windows in both:
                windows.grid(x)
        return both

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); downsampling is left to the caller, who needs both."""
        windows = self.windows(x)
        for j, block in enumerate(self.blocks):
            x = block(x, windows[j % 2])
        return x
