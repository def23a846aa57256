"""Window attention through `torch.nn.functional.scaled_dot_product_attention`.

Serves every device and every floating dtype: PyTorch takes a fused kernel where it has one for
attention with an additive bias (CUDA: memory-efficient attention, in fp16, bf16 and fp32; CPU: its
flash attention), and matrix products elsewhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether tensors of such a kind can be attended."""
    return dtype.is_floating_point


def attend(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Softmax attention through PyTorch's fused kernels."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    if mask is not None:
        bias = (bias + mask).repeat(len(q) // len(mask), 1, 1, 1)  # (B*nW, nH, N, N)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout_p, scale=scale
    )
    return out.transpose(1, 2)
