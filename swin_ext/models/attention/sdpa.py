"""Window attention through `torch.nn.functional.scaled_dot_product_attention`.

Serves every device and every floating dtype: PyTorch takes a fused kernel where it has one for
attention with an additive bias (CUDA: memory-efficient attention, in fp16, bf16 and fp32; CPU: its
flash attention), and matrix products elsewhere.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.windowed import attend_in_windows
from swin_ext.models.attention.windows import Windows


def refusal(problem: Problem) -> str | None:
    """Why such a problem is not served; None if it is."""
    return None if problem.dtype.is_floating_point else f'{problem.dtype} is no floating type'


def attend(x: Tensor, terms: AttentionTerms, windows: Windows) -> Tensor:
    """See `windowed.attend_in_windows`."""
    return attend_in_windows(x, terms, windows, _attend)


def _attend(
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
