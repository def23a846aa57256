"""Windows of a feature map, and attention within them.

The implementations of attention compute the same function; a fused kernel would be one more entry
of `IMPLEMENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

# Added to the logits of token pairs that the cyclic shift brought together from opposite borders
# of the map. The reference adds -100, whose weight of about 1e-44 is the same to fp32, but a
# denormal number: on x86 CPUs that makes products with it 20 times slower.
MASKED_LOGIT = float('-inf')


def partition(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C), H and W multiples of `window`, into (B * nW, window**2, C)."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


class WindowGrid:
    """Where the tokens of an (H, W) map are once it is padded, rolled and cut into windows.

    Padding, rolling and cutting are one permutation of tokens, so that one gather does what would
    be three copies (of which the one of `torch.roll` is by far the slowest on a CPU).

    Args:
        shift: Tokens to roll the rows and the columns by.

    Attributes:
        source: (nW * N, ) token of the row-major map at each place in the windows; 0 for padding.
        padding: Places without a token, or None.
        place: (H * W, ) place in the windows of each token.
        mask: (nW, 1, N, N), to be added to logits: 0 where both tokens were neighbours before the
            roll, else `MASKED_LOGIT`. None without shift.
    """

    def __init__(self, H: int, W: int, window: int, shift: tuple[int, int], like: Tensor):
        padded_h, padded_w = -(-H // window) * window, -(-W // window) * window
        self.tokens_per_window = window**2
        rows = torch.arange(padded_h, device=like.device).roll(-shift[0], 0)[:, None]
        columns = torch.arange(padded_w, device=like.device).roll(-shift[1], 0)[None, :]
        token = torch.where((rows < H) & (columns < W), rows * W + columns, -1)
        token = partition(token[None, :, :, None], window).flatten()
        num_padding = padded_h * padded_w - H * W
        by_token = token.argsort()
        self.source = token.clamp(min=0)
        self.padding = by_token[:num_padding] if num_padding else None
        self.place = by_token[num_padding:]
        self.mask = shift_mask(padded_h, padded_w, window, shift, like) if any(shift) else None


def shift_mask(H: int, W: int, window: int, shift: tuple[int, int], like: Tensor) -> Tensor:
    """Additive mask, (nW, 1, N, N), for attention in a padded map that was rolled by `-shift`."""

    def region(size, shift):  # 0 | 1 | 2: untouched windows, last window, its wrapped-around part
        position = torch.arange(size, device=like.device)
        return (position >= size - window).int() + (position >= size - shift).int()

    regions = 3 * region(H, shift[0])[:, None] + region(W, shift[1])[None, :]  # (H, W)
    regions = partition(regions[None, :, :, None], window).squeeze(-1)  # (nW, N)
    different = regions[:, None, :, None] != regions[:, None, None, :]  # (nW, 1, N, N)
    mask = torch.zeros(different.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill(different, MASKED_LOGIT)


def _gather_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    windows = x.index_select(1, grid.source)
    if grid.padding is not None:
        windows = windows.index_fill(1, grid.padding, 0)
    return windows


class _ToWindows(Function):
    """Gather whose gradient is a gather too, where autograd's own would be a scattered sum."""

    @staticmethod
    def forward(ctx, x, grid):
        ctx.grid = grid
        return _gather_windows(x, grid)

    @staticmethod
    def backward(ctx, grad):
        return grad.index_select(1, ctx.grid.place), None


class _FromWindows(Function):
    @staticmethod
    def forward(ctx, x, grid):
        ctx.grid = grid
        return x.index_select(1, grid.place)

    @staticmethod
    def backward(ctx, grad):
        return _gather_windows(grad, ctx.grid), None


def to_windows(x: Tensor, grid: WindowGrid) -> Tensor:
    """Cut a map (B, H, W, C) into windows (B * nW, N, C)."""
    B, H, W, C = x.shape
    x = x.reshape(B, H * W, C)
    x = _ToWindows.apply(x, grid) if _may_use_functions(x) else _gather_windows(x, grid)
    return x.view(-1, grid.tokens_per_window, C)


def from_windows(windows: Tensor, grid: WindowGrid, B: int, H: int, W: int) -> Tensor:
    """Put windows (B * nW, N, C) together to a map (B, H, W, C)."""
    x = windows.reshape(B, -1, windows.shape[-1])
    x = _FromWindows.apply(x, grid) if _may_use_functions(x) else x.index_select(1, grid.place)
    return x.view(B, H, W, -1)


def is_traced() -> bool:
    """Whether a compiler or an exporter is looking; these want plain operations and no caches."""
    # torch.compiler has is_compiling since torch 2.3.
    is_compiling = getattr(torch.compiler, 'is_compiling', lambda: False)
    return is_compiling() or torch.jit.is_tracing()


def _may_use_functions(x: Tensor) -> bool:
    return torch.is_grad_enabled() and x.requires_grad and not is_traced()


class PositionBiasCache(nn.Module):
    """Keeps a position bias for as long as the parameters it is made of stay as they are.

    Setting the mode forgets it too: weights that are exchanged through `Tensor.data`, as
    MMEngine's `EMAHook` does around a validation, do not count as changed.
    """

    def __init__(self):
        super().__init__()
        self._version = self._bias = None

    def train(self, mode: bool = True) -> PositionBiasCache:
        self._version = self._bias = None
        return super().train(mode)

    def get(self, parameters: Iterable[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Return `compute()`, which is called anew only where `parameters` may learn."""
        parameters = list(parameters)
        learns = torch.is_grad_enabled() and any(p.requires_grad for p in parameters)
        if learns or is_traced():
            return compute()
        version = [(p._version, p.data_ptr(), p.dtype) for p in parameters]
        if self._version != version:
            self._version, self._bias = version, compute()
        return self._bias


def eager_attention(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float, dropout_p: float
) -> Tensor:
    """Softmax attention written out in matrix products, with its gradient written out too."""
    if dropout_p == 0 and _may_use_functions(qkv):
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


def sdpa_attention(
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


IMPLEMENTATIONS = {'eager': eager_attention, 'sdpa': sdpa_attention}


def window_attention(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float, dropout_p: float, impl: str
) -> Tensor:
    """Attend within windows.

    Args:
        qkv: (B * nW, N, 3, nH, C / nH).
        bias: (nH, N, N), added to the logits.
        mask: (nW, 1, N, N), added to the logits of each image.
        impl: Key of `IMPLEMENTATIONS`, or 'auto' for the faster one.

    Returns:
        (B * nW, N, nH, C / nH).
    """
    if impl == 'auto':
        impl = 'eager'
    return IMPLEMENTATIONS[impl](qkv, bias, mask, scale, dropout_p)
