"""Window attention by Triton kernels that read queries, keys and values from the map itself.

Serves CUDA devices in float32, float16 and bfloat16: windows of up to 16 x 16 tokens, heads of 16
to 64 channels, without dropout of the attention. With `TRITON_INTERPRET=1` in the environment, CPUs
and float64, too, slowly: that is how it is tested where there is no GPU.

Nothing but the map of queries, keys and values is kept for the backward pass. Gradients are the
same in each run: no two programs add to the same number.
"""

from __future__ import annotations

import functools
import importlib
import os

import torch
from torch import Tensor

from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.tracing import is_exported, is_open
from swin_ext.models.attention.windows import Windows

IS_INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
MAX_WINDOW = 16
HEAD_DIMS = (16, 64)
MIN_TRITON = (3, 3)  # kernels with tuples as arguments


def refusal(problem: Problem) -> str | None:
    """Why such a problem is not served; None if it is."""
    heads, window = problem.num_heads, problem.windows.window
    dim = problem.shape[-1] // heads
    if problem.device.type != 'cuda' and not (IS_INTERPRETED and problem.device.type == 'cpu'):
        return f'it runs on CUDA devices, and not on {problem.device.type}'
    if problem.dtype not in DTYPES and not (IS_INTERPRETED and problem.dtype == torch.float64):
        return f'it has no kernel for {problem.dtype}'
    if window > MAX_WINDOW:
        return f'windows of {window} x {window} tokens are larger than {MAX_WINDOW} x {MAX_WINDOW}'
    if not HEAD_DIMS[0] <= dim <= HEAD_DIMS[1]:
        return f'heads of {dim} channels are not of {HEAD_DIMS[0]} to {HEAD_DIMS[1]}'
    if (
        problem.device.type == 'cuda'
        and problem.dtype == torch.float32
        and dim > 32
        and window > 11
    ):
        return f'windows of {window} x {window} tokens of {dim} float32 do not fit shared memory'
    if problem.dropout_p:
        return 'it has no dropout of the attention'
    if is_exported() or any(map(is_open, (*problem.windows.size, *problem.windows.shift))):
        return 'it cannot be exported'
    if 3 * problem.shape[1] * problem.shape[2] * problem.shape[3] >= 2**31:
        return f'a map of {problem.shape[1]} x {problem.shape[2]} tokens is too large'
    return _lack(problem.device, problem.dtype)


@torch.compiler.assume_constant_result
def _lack(device: torch.device, dtype: torch.dtype) -> str | None:
    return _find_lack(device, dtype)


@functools.cache
def _find_lack(device: torch.device, dtype: torch.dtype) -> str | None:
    if not HAS_OPERATORS:
        return f'PyTorch {torch.__version__} is older than 2.4'
    try:
        triton = importlib.import_module('triton')
    except ImportError as error:
        return f'triton cannot be imported ({error})'
    if tuple(map(int, triton.__version__.split('.')[:2])) < MIN_TRITON:
        return f'triton {triton.__version__} is older than {".".join(map(str, MIN_TRITON))}'
    if device.type == 'cuda' and torch.version.hip is None:
        needed = (8, 0) if dtype == torch.bfloat16 else (7, 0)
        if torch.cuda.get_device_capability(device) < needed:
            return f'{torch.cuda.get_device_name(device)} is too old for it in {dtype}'
    return None


def attend(x: Tensor, terms: AttentionTerms, windows: Windows) -> Tensor:
    """See `windowed.attend_in_windows`."""
    # Nothing of the bias is read where there is no padding: no gradient of zeros is made then.
    padding = terms.padding if windows.has_padding() else None
    return attend_map(
        terms.project(x),
        padding,
        terms.table,
        terms.logit_scale,
        terms.scale,
        terms.num_heads,
        windows.window,
        windows.shift,
    )


def attend_map(
    qkv: Tensor,
    padding: Tensor | None,
    table: Tensor,
    logit_scale: Tensor | None,
    scale: float,
    num_heads: int,
    window: int,
    shift: tuple[int, int],
) -> Tensor:
    """Attend within the windows of a map.

    Args:
        qkv: (B, H, W, 3 C): queries, keys and values, each by heads. Any strides.
        padding: (3 C, ), the same of each token of the padding; None for zeros.
        table: (M, nH), see `AttentionTerms`, as are `logit_scale` and `scale`.
        window: Side of a window in tokens.
        shift: Tokens that the rows and the columns are rolled by.

    Returns:
        (B, H, W, C) of the type of `qkv`. It can be differentiated once.
    """
    return torch.ops.swin_ext.window_attention(
        qkv, padding, table, logit_scale, float(scale), num_heads, window, *shift
    )


def _forward(qkv, padding, table, logit_scale, scale, heads, window, shift_h, shift_w):
    from swin_ext.models.attention import triton_launch

    return triton_launch.forward(
        qkv, padding, table, logit_scale, scale, heads, window, (shift_h, shift_w)
    )


def _backward(
    grad, qkv, padding, table, logit_scale, scale, heads, window, shift_h, shift_w, qkv_, table_
):
    from swin_ext.models.attention import triton_launch

    return triton_launch.backward(
        grad,
        qkv,
        padding,
        table,
        logit_scale,
        scale,
        heads,
        window,
        (shift_h, shift_w),
        wants_qkv=qkv_,
        wants_table=table_,
    )


def _fake_forward(qkv, *others):
    return qkv.new_empty(*qkv.shape[:3], qkv.shape[3] // 3)


def _fake_backward(grad, qkv, padding, table, logit_scale, *others):
    wants_qkv, wants_table = others[-2:]
    return (
        qkv.new_empty(qkv.shape if wants_qkv else 0),
        qkv.new_empty(0) if padding is None else torch.empty_like(padding),
        table.new_empty(table.shape if wants_table else 0),
        qkv.new_empty(0) if logit_scale is None else torch.empty_like(logit_scale),
    )


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.numbers = inputs[4:]


def _differentiate(ctx, grad):
    wanted = ctx.needs_input_grad[:4]
    wants_qkv = any(wanted[i] for i in (0, 1, 3))
    grads = torch.ops.swin_ext.window_attention_backward(
        grad, *ctx.saved_tensors, *ctx.numbers, wants_qkv, wanted[2]
    )
    return (*(g if want else None for g, want in zip(grads, wanted)), *[None] * len(ctx.numbers))


def _refuse_second_derivative(ctx, *grads):
    raise RuntimeError(
        "attn_impl='triton' has no second derivatives: use attn_impl='eager' without gradients "
        'written by hand, or leave create_graph=True out.'
    )


_TERMS = (
    'Tensor qkv, Tensor? padding, Tensor table, Tensor? logit_scale, float scale, int heads, '
    'int window, int shift_h, int shift_w'
)
# Operators of the dispatcher, so that torch.compile keeps them whole.
HAS_OPERATORS = hasattr(torch.library, 'custom_op')  # PyTorch 2.4
if HAS_OPERATORS:
    _operator = torch.library.custom_op(
        'swin_ext::window_attention', _forward, mutates_args=(), schema=f'({_TERMS}) -> Tensor'
    )
    _operator.register_fake(_fake_forward)
    _operator.register_autograd(_differentiate, setup_context=_save)
    _operator_backward = torch.library.custom_op(
        'swin_ext::window_attention_backward',
        _backward,
        mutates_args=(),
        schema=f'(Tensor grad, {_TERMS}, bool wants_qkv, bool wants_table) '
        '-> (Tensor, Tensor, Tensor, Tensor)',
    )
    _operator_backward.register_fake(_fake_backward)
    _operator_backward.register_autograd(_refuse_second_derivative)
