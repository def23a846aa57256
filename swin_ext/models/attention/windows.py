"""Cutting a feature map into windows, shifted ones included, and putting it together again."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from swin_ext.models.attention.tracing import is_open, is_traced, may_use_functions

# Added to the logits of token pairs that the cyclic shift brought together from opposite borders
# of the map. The reference adds -100, whose weight of about 1e-44 is the same to fp32, but a
# denormal number: on x86 CPUs that makes products with it 20 times slower.
MASKED_LOGIT = float('-inf')

# A Swin of four stages needs 8 per image size: plain and shifted windows of each stage.
KEPT_GRIDS = 64


class WindowGrid(NamedTuple):
    """Where the tokens of an (H, W) map are once it is padded, rolled and cut into windows.

    Padding, rolling and cutting are one permutation of tokens, so that one gather does what would
    be three copies (of which the one of `torch.roll` is by far the slowest on a CPU).

    Nothing may write to the tensors: models and threads share them.

    Attributes:
        source: (nW * N, ) token of the row-major map at each place in the windows; 0 for padding.
        padding: Places without a token, or None.
        place: (H * W, ) place in the windows of each token.
        mask: (nW, 1, N, N), to be added to logits: 0 where both tokens were neighbours before the
            roll, else `MASKED_LOGIT`. None without shift.
        tokens_per_window: N.
    """

    source: Tensor
    padding: Tensor | None
    place: Tensor
    mask: Tensor | None
    tokens_per_window: int


class Windows:
    """How the maps of one stage are cut: by windows of `window` tokens a side, after a shift.

    Attributes:
        size: (H, W) of the map.
        shift: Tokens to roll the rows and the columns by.
        is_kept: Whether the grid may be kept for other maps of this size.
    """

    def __init__(
        self, size: tuple[int, int], window: int, shift: tuple[int, int], is_kept: bool = True
    ):
        self.size = size
        self.window = window
        self.shift = shift
        self.is_kept = is_kept
        self._grid = None

    def has_padding(self) -> bool:
        """Whether windows reach over the map."""
        return any(side % self.window for side in self.size)

    def grid(self, like: Tensor) -> WindowGrid:
        """The grid, made when it is first asked for: not every implementation has use for one."""
        if self._grid is None:
            cut = (*self.size, self.window, self.shift)
            self._grid = (
                window_grid(*cut, like)
                if self.is_kept
                else _make_grid(*cut, like.dtype, like.device)
            )
        return self._grid


def window_grid(H: int, W: int, window: int, shift: tuple[int, int], like: Tensor) -> WindowGrid:
    """Return the grid of an (H, W) map for the device of `like`, with a mask of its dtype.

    Grids are kept by the value of all that they depend on, and belong to no model, so that neither
    copies nor pickles nor `.to()` of a model meet them.

    Args:
        window: Side of a window in tokens.
        shift: Tokens to roll the rows and the columns by.
    """
    # Neither traced grids nor those of fake tensors and the like may be met by others.
    if is_traced() or type(like) is not Tensor:
        return _make_grid(H, W, window, shift, like.dtype, like.device)
    # What is made on a CUDA stream is safe to read, and to free, on that stream alone.
    stream = torch.cuda.current_stream(like.device).cuda_stream if like.is_cuda else None
    return _kept_grid(H, W, window, shift, like.dtype, like.device, stream)


@functools.lru_cache(maxsize=KEPT_GRIDS)
def _kept_grid(
    H: int,
    W: int,
    window: int,
    shift: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
    stream: int | None,
) -> WindowGrid:
    # Tensors made in inference mode could not take part in a training later.
    with torch.inference_mode(False):
        return _make_grid(H, W, window, shift, dtype, device)


def _make_grid(
    H: int,
    W: int,
    window: int,
    shift: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> WindowGrid:
    # ONNX divides towards zero, so nothing negative may be divided here.
    padded_h, padded_w = ((size + window - 1) // window * window for size in (H, W))
    rows = rolled_positions(padded_h, shift[0], device)[:, None]
    columns = rolled_positions(padded_w, shift[1], device)[None, :]
    token = torch.where((rows < H) & (columns < W), rows * W + columns, -1)
    token = partition(token[None, :, :, None], window).flatten()  # (nW * N, ), -1 for padding
    num_padding = padded_h * padded_w - H * W
    by_token = token.argsort()
    return WindowGrid(
        source=token.clamp(min=0),
        # Of a map whose size an exporter leaves open, there may be padding and shifts.
        padding=by_token[:num_padding] if is_open(num_padding) or num_padding else None,
        place=by_token[num_padding:],
        mask=shift_mask(padded_h, padded_w, window, shift, dtype, device)
        if any(map(is_open, shift)) or any(shift)
        else None,
        tokens_per_window=window**2,
    )


def rolled_positions(size: int, shift: int | Tensor, device: torch.device) -> Tensor:
    """0..size - 1, rolled by `-shift`."""
    positions = torch.arange(size, device=device)
    if is_open(shift):
        return (positions + shift) % size
    return positions.roll(-shift, 0)


def partition(x: Tensor, window: int) -> Tensor:
    """Cut (B, H, W, C), H and W multiples of `window`, into (B * nW, window**2, C)."""
    B, H, W, C = x.shape
    x = x.view(B, H // window, window, W // window, window, C)
    return x.transpose(2, 3).reshape(-1, window * window, C)


def shift_mask(
    H: int,
    W: int,
    window: int,
    shift: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Additive mask, (nW, 1, N, N), for attention in a padded map that was rolled by `-shift`."""

    def region(size, shift):  # 0 | 1 | 2: untouched windows, last window, its wrapped-around part
        position = torch.arange(size, device=device)
        return (position >= size - window).int() + (position >= size - shift).int()

    regions = 3 * region(H, shift[0])[:, None] + region(W, shift[1])[None, :]  # (H, W)
    regions = partition(regions[None, :, :, None], window).squeeze(-1)  # (nW, N)
    different = regions[:, None, :, None] != regions[:, None, None, :]  # (nW, 1, N, N)
    mask = torch.zeros(different.shape, dtype=dtype, device=device)
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
    x = _ToWindows.apply(x, grid) if may_use_functions(x) else _gather_windows(x, grid)
    return x.view(-1, grid.tokens_per_window, C)


def from_windows(windows: Tensor, grid: WindowGrid, B: int, H: int, W: int) -> Tensor:
    """Put windows (B * nW, N, C) together to a map (B, H, W, C)."""
    x = windows.reshape(B, -1, windows.shape[-1])
    x = _FromWindows.apply(x, grid) if may_use_functions(x) else x.index_select(1, grid.place)
    return x.view(B, H, W, -1)
