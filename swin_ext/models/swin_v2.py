"""What Swin Transformer V2 does otherwise than V1.

Paper: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution",
https://arxiv.org/abs/2111.09883, Section 3. Computes the same function as Microsoft's code, timm's
and torchvision's; parameter names are the extension of V1's that `weights.swin` describes.
"""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swin_ext.models.attention.dispatch import window_attention
from swin_ext.models.attention.position_bias import relative_position_index
from swin_ext.models.attention.problem import AttentionTerms
from swin_ext.models.attention.windows import Windows
from swin_ext.models.blocks import SwinBlock
from swin_ext.models.layers import PatchMerging, join_neighbours

# Cosines are multiplied by no more than this (Section 3.2: the temperature is above 0.01).
MAX_LOGIT_SCALE = 100.0


def log_spaced_offsets(window: int, pretrained_window: int) -> Tensor:
    """Offsets (dy, dx) between tokens of a window, (M, 2), in the order of V1's bias table.

    Offsets are divided so that those of `pretrained_window` span [-8, 8], and put on a logarithmic
    scale so that they span [-1, 1] (Section 3.3; the 8 is of Microsoft's code).
    """
    axis = 8 * torch.arange(1 - window, window).float() / max(pretrained_window - 1, 1)
    axis = axis.sign() * (axis.abs() + 1).log2() / math.log2(8)
    return torch.stack([axis.repeat_interleave(len(axis)), axis.repeat(len(axis))], dim=-1)


class WindowAttentionV2(nn.Module):
    """Scaled cosine attention with continuous relative position bias inside each window.

    Args:
        attn_impl: Key of `dispatch.IMPLEMENTATIONS`, or 'auto'.
    """

    def __init__(
        self,
        dim,
        num_heads,
        window,
        pretrained_window,
        qkv_bias,
        attn_drop_rate,
        proj_drop_rate,
        attn_impl,
    ):
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.attn_impl = attn_impl
        self.logit_scale = nn.Parameter(torch.full((num_heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, 512), nn.ReLU(inplace=True), nn.Linear(512, num_heads, bias=False)
        )
        self.register_buffer(
            'relative_coords_table', log_spaced_offsets(window, pretrained_window), persistent=False
        )
        self.register_buffer(
            'relative_position_index', relative_position_index(window), persistent=False
        )
        self.qkv = nn.Linear(dim, dim * 3, bias=False)
        # Keys have no bias (Microsoft's code; the paper does not say why).
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias else None
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def terms(self, x: Tensor) -> AttentionTerms:
        """What it attends with in a map `x`."""
        bias = None
        if self.q_bias is not None:
            bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        with torch.autocast(x.device.type, enabled=False):
            table = 16 * self.cpb_mlp(self.relative_coords_table).sigmoid()  # (M, nH), in (0, 16)
            logit_scale = self.logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp()
        return AttentionTerms(
            project=functools.partial(F.linear, weight=self.qkv.weight, bias=bias),
            padding=bias,
            table=table,
            index=self.relative_position_index,
            num_heads=self.num_heads,
            scale=1.0,
            logit_scale=logit_scale.flatten(),
            dropout_p=self.attn_drop_rate if self.training else 0.0,
        )

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        attended = window_attention(x, self.terms(x), windows, self.attn_impl)
        return self.proj_drop(self.proj(attended))


class SwinBlockV2(SwinBlock):
    """Norms at the end of the residual branches."""

    attention_class = WindowAttentionV2

    def init_weights(self) -> None:
        """Initialise what is no linear layer; blocks begin as identities, as Microsoft's do."""
        attention = self.attn.w_msa
        nn.init.constant_(attention.logit_scale, math.log(10))
        zeros = [*self.norm1.parameters(), *self.norm2.parameters()]
        if attention.q_bias is not None:
            zeros += [attention.q_bias, attention.v_bias]
        for parameter in zeros:
            nn.init.zeros_(parameter)

    def _forward(self, x, windows):
        x = self.drop_path(self.norm1(self.attn(x, windows)), x)
        return self.drop_path(self.norm2(self.ffn(x)), x)


class PatchMergingV2(PatchMerging):
    """Norm after the reduction, of half the width."""

    def __init__(self, dim, norm):
        super().__init__(dim, norm)
        self.norm = nn.LayerNorm(2 * dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(join_neighbours(x)))
