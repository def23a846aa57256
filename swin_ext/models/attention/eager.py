"""Window attention written out in matrix products.

Serves every device and every floating dtype, dropout of the attention included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.tracing import may_use_functions
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
    """Softmax attention written out in matrix products, with its gradient written out too."""
    if dropout_p == 0 and may_use_functions(qkv):
        return _EagerAttention.apply(qkv, bias, mask, scale)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # (B*nW, nH, N, C/nH) each
    attn = (q * scale) @ k.transpose(-2, -1) + bias
    if mask is not None:
        attn = (attn.unflatten(0, (-1, mask.shape[0])) + mask).flatten(0, 1)
    attn = F.dropout(attn.softmax(dim=-1), dropout_p, training=dropout_p > 0)
    return (attn.to(v.dtype) @ v).transpose(1, 2)


class _EagerAttention(Function):
    """Makes one (B*nW, nH, N, N) tensor per pass, where autograd would make four or five.

    On a CPU, fresh memory of that size costs as much as computing it.
    """

    @staticmethod
    def forward(ctx, qkv, bias, mask, scale):
        B, N, _, heads, dim = qkv.shape
        q, k, v = qkv.permute(2, 0, 3, 1, 4).reshape(3, B * heads, N, dim).unbind(0)
        attn = qkv.new_empty(B * heads, N, N)
        if mask is None:
            attn.view(B, heads, N, N).copy_(bias)
        else:
            attn.view(-1, len(mask), heads, N, N).copy_(bias + mask)
        attn.baddbmm_(q, k.transpose(1, 2), alpha=scale)
        torch.softmax(attn, dim=-1, out=attn)
        ctx.save_for_backward(q, k, v, attn)
        ctx.scale = scale
        ctx.heads = heads
        ctx.bias_dtype = bias.dtype
        return torch.bmm(attn, v).view(B, heads, N, dim).transpose(1, 2)

    @staticmethod
    def backward(ctx, grad):
        q, k, v, attn = ctx.saved_tensors
        B, N, heads, dim = grad.shape
        grad = grad.transpose(1, 2).reshape(B * heads, N, dim)
        grad_qkv = grad.new_empty(3, B * heads, N, dim)
        torch.bmm(attn.transpose(1, 2), grad, out=grad_qkv[2])
        grad_attn = torch.bmm(grad, v.transpose(1, 2))
        torch.ops.aten._softmax_backward_data.out(
            grad_attn, attn, -1, attn.dtype, grad_input=grad_attn
        )
        grad_bias = None
        if ctx.needs_input_grad[1]:
            grad_bias = grad_attn.view(B, heads, N, N).sum(0, dtype=ctx.bias_dtype)
        torch.baddbmm(q, grad_attn, k, beta=0, alpha=ctx.scale, out=grad_qkv[0])
        torch.baddbmm(k, grad_attn.transpose(1, 2), q, beta=0, alpha=ctx.scale, out=grad_qkv[1])
        grad_qkv = grad_qkv.view(3, B, heads, N, dim).permute(1, 3, 0, 2, 4).contiguous()
        return grad_qkv, grad_bias, None, None
