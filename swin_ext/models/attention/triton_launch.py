"""Launches the kernels of `triton_kernels`: sizes of tiles, numbers of programs, outputs."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from swin_ext.models.attention import triton_kernels as kernels

IS_INTERPRETED = not isinstance(kernels.attention_forward, triton.JITFunction)

# A program reads its bias once and then goes through some windows; so many programs of each
# multiprocessor leave none idle at the end. Of the backward pass, each writes its own sums.
PROGRAMS_PER_PROCESSOR = {'forward': 16, 'backward': 4}
INTERPRETED_PROCESSORS = 1


class Tiles(NamedTuple):
    """Queries of a tile, and warps of a program; docs/kernels.md says why these."""

    block_q: int
    num_warps: int


# (direction, keys of a tile) -> tiles. All keys of a window are in one.
TILES = {
    ('forward', 16): Tiles(16, 1),
    ('forward', 32): Tiles(32, 2),
    ('forward', 64): Tiles(64, 4),
    ('forward', 128): Tiles(64, 4),
    ('forward', 256): Tiles(32, 8),
    ('backward', 16): Tiles(16, 1),
    ('backward', 32): Tiles(32, 4),
    ('backward', 64): Tiles(64, 8),
    ('backward', 128): Tiles(32, 8),
    ('backward', 256): Tiles(16, 8),
}


class Geometry(NamedTuple):
    """What all launches of one map share."""

    qkv: Tensor
    heads: int
    window: int
    shift: tuple[int, int]

    @property
    def grid(self) -> tuple[int, ...]:
        """(H, W, padded H, padded W, shifts, windows of an image); see `triton_kernels._locate`."""
        H, W = self.qkv.shape[1:3]
        down, across = (-(-side // self.window) for side in (H, W))
        return H, W, down * self.window, across * self.window, *self.shift, down * across

    @property
    def total_windows(self) -> int:
        """Of all images."""
        return len(self.qkv) * self.grid[-1]

    @property
    def places(self) -> tuple:
        """What both kernels take of where the tokens lie, in their order."""
        return *self.grid, self.qkv.stride()[:3], self.total_windows, self.heads

    def has_padding(self) -> bool:
        """Whether windows reach over the map."""
        return self.grid[:2] != self.grid[2:4]

    def tiles(self, direction: str) -> tuple[Tiles, dict]:
        """Tiles and the arguments of a kernel that they make."""
        tokens, dim = self.window**2, self.qkv.shape[-1] // (3 * self.heads)
        block_k, block_d = (max(16, triton.next_power_of_2(n)) for n in (tokens, dim))
        tiles = TILES[direction, block_k]
        return tiles, dict(
            WINDOW=self.window,
            DIM=dim,
            BLOCK_Q=tiles.block_q,
            BLOCK_K=block_k,
            BLOCK_D=block_d,
            num_warps=tiles.num_warps,
            num_stages=1,
        )

    def programs(self, direction: str, blocks: int) -> int:
        """Programs that share the windows of a head, for each of so many blocks of queries."""
        wanted = PROGRAMS_PER_PROCESSOR[direction] * _processors(self.qkv.device)
        return min(self.total_windows, max(1, wanted // (self.heads * blocks)), 65535)


@functools.cache
def _processors(device: torch.device) -> int:
    if device.type != 'cuda':
        return INTERPRETED_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _precision(dtype: torch.dtype) -> str:
    if IS_INTERPRETED and dtype == torch.bfloat16:
        return 'upcast'
    # As PyTorch's own products of float32; those of other types have one precision.
    return 'ieee' if torch.get_float32_matmul_precision() == 'highest' else 'tf32'


def _prepare(qkv, padding, table, logit_scale, heads, window, shift):
    """Inputs as kernels take them, and the arguments that depend on nothing but these."""
    qkv = qkv if qkv.stride(-1) == 1 else qkv.contiguous()
    geometry = Geometry(qkv, heads, window, shift)
    has_padding = padding is not None and geometry.has_padding()
    # A pointer that is not read from stands in for what is not there.
    inputs = [
        qkv,
        padding.contiguous() if has_padding else qkv,
        table.contiguous(),
        qkv if logit_scale is None else logit_scale.contiguous(),
    ]
    flags = dict(
        ACC=tl.float64 if qkv.dtype == torch.float64 else tl.float32,
        COSINE=logit_scale is not None,
        SHIFTED=any(shift),
        HAS_PADDING=has_padding,
        PRECISION=_precision(qkv.dtype),
    )
    return geometry, inputs, flags


def forward(
    qkv: Tensor,
    padding: Tensor | None,
    table: Tensor,
    logit_scale: Tensor | None,
    scale: float,
    heads: int,
    window: int,
    shift: tuple[int, int],
) -> Tensor:
    """Attend; see `triton.attend_map`."""
    geometry, inputs, flags = _prepare(qkv, padding, table, logit_scale, heads, window, shift)
    qkv = geometry.qkv
    out = qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)
    if out.numel() == 0:
        return out
    tiles, arguments = geometry.tiles('forward')
    blocks = triton.cdiv(window**2, tiles.block_q)
    with _on(qkv.device):
        kernels.attention_forward[heads, geometry.programs('forward', blocks), blocks](
            *inputs,
            out,
            scale,
            *geometry.places,
            **flags,
            **arguments,
        )
    return out


def backward(
    grad_out: Tensor,
    qkv: Tensor,
    padding: Tensor | None,
    table: Tensor,
    logit_scale: Tensor | None,
    scale: float,
    heads: int,
    window: int,
    shift: tuple[int, int],
    wants_qkv: bool,
    wants_table: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of `qkv`, `padding`, `table` and `logit_scale`; empty where not wanted or given.

    Args:
        wants_qkv: Whether those of `qkv`, `padding` and `logit_scale` are wanted.
        wants_table: Whether that of `table` is.
    """
    geometry, inputs, flags = _prepare(qkv, padding, table, logit_scale, heads, window, shift)
    qkv, N = geometry.qkv, window**2
    sums = torch.float64 if qkv.dtype == torch.float64 else torch.float32
    tiles, arguments = geometry.tiles('backward')
    blocks = triton.cdiv(N, tiles.block_q)
    is_empty = qkv.numel() == 0
    grad_qkv = qkv.new_empty(qkv.shape if wants_qkv else 0)
    grad_padding = None if padding is None else torch.zeros_like(padding)
    grad_scale = None if logit_scale is None else torch.zeros_like(logit_scale)
    grad_table = table.new_zeros(table.shape) if wants_table else table.new_empty(0)

    def launch(queries_apart: bool, wants_qkv: bool, wants_table: bool):
        apart = blocks if queries_apart else 1
        programs = geometry.programs('backward', apart)
        kept = [
            qkv.new_empty(programs * heads * N * N if wants_table else 0, dtype=sums),
            qkv.new_zeros(programs, 2 * qkv.shape[3] // 3 if wants_qkv else 0, dtype=sums),
            qkv.new_zeros(programs, heads if wants_qkv else 0, dtype=sums),
        ]
        kernels.attention_backward[heads, programs, apart](
            *inputs,
            grad_out.contiguous(),
            grad_qkv,
            *kept,
            scale,
            *geometry.places,
            **flags,
            **arguments,
            BLOCKS=1 if queries_apart else blocks,
            WANT_QKV=wants_qkv,
            WANT_BIAS=wants_table,
        )
        return kept

    def gather(sums_bias):
        side = 2 * window - 1
        grad_bias = sums_bias.view(-1, heads * N * N).sum(0)
        rows = 16
        kernels.gather_bias_gradient[triton.cdiv(side**2, rows), heads](
            grad_bias, grad_table, heads, WINDOW=window, BLOCK_M=rows, BLOCK_N=arguments['BLOCK_K']
        )

    if not is_empty:
        with _on(qkv.device):
            # Where queries come in several blocks, the sums over keys and those over windows have
            # to be made by different programs.
            in_one = wants_qkv and wants_table and blocks == 1
            if wants_qkv:
                sums_bias, sums_padding, sums_scale = launch(False, True, in_one)
                if flags['HAS_PADDING']:
                    grad_padding[qkv.shape[3] // 3 :] = sums_padding.sum(0)
                if logit_scale is not None:
                    grad_scale.copy_(sums_scale.sum(0).view_as(logit_scale))
            if wants_table:
                gather(sums_bias if in_one else launch(True, False, True)[0])
    return (
        grad_qkv,
        qkv.new_empty(0) if grad_padding is None else grad_padding,
        grad_table,
        qkv.new_empty(0) if grad_scale is None else grad_scale,
    )


def _on(device: torch.device):
    """Triton launches on the current device, which may not be that of the tensors."""
    return torch.cuda.device(device if device.type == 'cuda' else -1)
