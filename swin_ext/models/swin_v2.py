"""What Swin Transformer V2 does otherwise than V1.

Paper: Liu et al., "Swin Transformer V2: Scaling Up Capacity and Resolution",
https://arxiv.org/abs/2111.09883, Section 3. Computes the same function as Microsoft's code, timm's
and torchvision's; parameter names are the extension of V1's that `weights.swin` describes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swin_ext.models.attention.dispatch import window_attention
from swin_ext.models.blocks import SwinBlock, gather_position_bias, relative_position_index
from swin_ext.models.layers import PatchMerging, join_neighbours

# Cosines are multiplied by no more than this (Section 3.2: the temperature is above 0.01).
MAX_LOGIT_SCALE = 100.0
# Shorter queries and keys count as zero vectors; the `eps` of `torch.nn.functional.normalize`.
MIN_LENGTH = 1e-12


def log_spaced_offsets(window: int, pretrained_window: int) -> Tensor:
    """Offsets (dy, dx) between tokens of a window, (M, 2), in the order of V1's bias table.

    Offsets are divided so that those of `pretrained_window` span [-8, 8], and put on a logarithmic
    scale so that they span [-1, 1] (Section 3.3; the 8 is of Microsoft's code).
    """
    axis = 8 * torch.arange(1 - window, window).float() / max(pretrained_window - 1, 1)
    axis = axis.sign() * (axis.abs() + 1).log2() / math.log2(8)
    return torch.stack([axis.repeat_interleave(len(axis)), axis.repeat(len(axis))], dim=-1)


def scale_to_cosines(qkv: Tensor, logit_scale: Tensor) -> Tensor:
    """Make products of queries and keys cosines times a scale.

    Args:
        qkv: (B * nW, N, 3, nH, C / nH).
        logit_scale: Factor of each head, (nH, 1).

    Returns:
        `qkv` with keys of length 1 and queries of length `logit_scale`, but for zero vectors.
    """
    lengths = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True)  # (B*nW, N, 2, nH, 1)
    # Keys of padding are zero vectors. A factor of 1 / MIN_LENGTH would leave them so, but it would
    # also multiply their gradient, which float16 cannot hold.
    inverse = torch.where(lengths > MIN_LENGTH, lengths.clamp_min(MIN_LENGTH).reciprocal(), 0.0)
    inverse_q, inverse_k = inverse.split(1, dim=2)
    factors = [inverse_q * logit_scale, inverse_k, torch.ones_like(inverse_k)]
    return qkv * torch.cat(factors, dim=2)


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

    def position_bias(self) -> Tensor:
        """Relative position bias, (nH, N, N), in (0, 16)."""
        table = 16 * self.cpb_mlp(self.relative_coords_table).sigmoid()  # (M, nH)
        return gather_position_bias(table, self.relative_position_index)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows; see `WindowAttention.forward` of V1."""
        B, N, C = x.shape
        qkv_bias = None
        if self.q_bias is not None:
            qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias)
        qkv = qkv.view(B, N, 3, self.num_heads, C // self.num_heads)
        # Logits reach 116, where float16 has steps of 1/16 and bfloat16 of 1/2: at least float32.
        with torch.autocast(x.device.type, enabled=False):
            logit_scale = self.logit_scale.clamp(max=math.log(MAX_LOGIT_SCALE)).exp()
            cosine_qkv = scale_to_cosines(
                qkv.to(torch.promote_types(qkv.dtype, torch.float32)), logit_scale.flatten(1)
            )
            out = window_attention(
                cosine_qkv,
                self.position_bias(),
                mask,
                1.0,
                self.attn_drop_rate if self.training else 0.0,
                self.attn_impl,
            )
        return self.proj_drop(self.proj(out.reshape(B, N, C).to(qkv.dtype)))


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

    def _forward(self, x, grid):
        x = self.drop_path(self.norm1(self.attn(x, grid)), x)
        return self.drop_path(self.norm2(self.ffn(x)), x)


class PatchMergingV2(PatchMerging):
    """Norm after the reduction, of half the width."""

    def __init__(self, dim, norm):
        super().__init__(dim, norm)
        self.norm = nn.LayerNorm(2 * dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.reduction(join_neighbours(x)))
