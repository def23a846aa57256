"""Triton kernels of window attention on a map: padding, shift and windows are address arithmetic.

A program serves one head and every so-manieth window (and, where a window has more queries than
fit, one block of queries). All keys of a window are there at once, so that a softmax sees its whole
row and nothing but the inputs is kept for the backward pass, which computes the weights anew.

Shapes and names: a window has N = WINDOW**2 tokens of DIM channels a head; tiles are padded to
powers of two, (BLOCK_Q queries, BLOCK_K >= N keys, BLOCK_D >= DIM channels). `qkv` is a map
(B, H, W, 3 C) of any strides but the last, which is 1; outputs are contiguous. Sums are in ACC,
float32 (float64 for tensors of it), and no two programs write to the same place.

This file needs the `triton` package; whoever imports it has asked `triton.refusal` before.
"""

from __future__ import annotations

import triton
import triton.language as tl

from swin_ext.models.attention import cosines

MIN_LENGTH = tl.constexpr(cosines.MIN_LENGTH)
# Images of many sizes shall not compile many variants, for numbers that are 1 or multiples of 16.
SIZES = ('H', 'W', 'padded_h', 'padded_w', 'shift_h', 'shift_w', 'windows', 'total_windows')


@triton.jit
def _locate(token, window, grid, WINDOW: tl.constexpr):
    """Where tokens of a window are.

    Returns:
        Row and column in the map, whether they are in it (and not of its padding, nor of the
        tile's), and a number that tells apart what the shift brought together.
    """
    H, W, padded_h, padded_w, shift_h, shift_w = grid
    across = padded_w // WINDOW
    rolled_y = window // across * WINDOW + token // WINDOW
    rolled_x = window % across * WINDOW + token % WINDOW
    y = rolled_y + shift_h
    y = tl.where(y >= padded_h, y - padded_h, y)
    x = rolled_x + shift_w
    x = tl.where(x >= padded_w, x - padded_w, x)
    inside = (token < WINDOW * WINDOW) & (y < H) & (x < W)
    wrapped_y = (rolled_y >= padded_h - shift_h).to(tl.int32)
    wrapped_x = (rolled_x >= padded_w - shift_w).to(tl.int32)
    return y, x, inside, 2 * wrapped_y + wrapped_x


@triton.jit
def _tile(y, x, stride_h, stride_w, BLOCK_D: tl.constexpr):
    """Offsets of (tokens, channels) in an image, of 32 bits, as 64 take twice the registers."""
    return (y * stride_h + x * stride_w)[:, None] + tl.arange(0, BLOCK_D)[None, :]


@triton.jit
def _load(base, tile, inside, is_padding, padding, DIM: tl.constexpr, HAS_PADDING: tl.constexpr):
    """Load rows of a map; those of its padding are `padding`, or zeros."""
    channel = tl.arange(0, tile.shape[1])
    mask = inside[:, None] & (channel < DIM)[None, :]
    rows = tl.load(base + tile, mask=mask, other=0.0)
    if HAS_PADDING:
        value = tl.load(padding + channel, mask=channel < DIM, other=0.0).to(rows.dtype)
        rows = tl.where(is_padding[:, None], value[None, :], rows)
    return rows


@triton.jit
def _load_bias(table, query, key, head, heads, ACC: tl.constexpr, WINDOW: tl.constexpr):
    """Gather the bias of (queries, keys) from the table; -inf for keys that only pad the tile."""
    N: tl.constexpr = WINDOW * WINDOW
    dy = query[:, None] // WINDOW - key[None, :] // WINDOW + WINDOW - 1
    dx = query[:, None] % WINDOW - key[None, :] % WINDOW + WINDOW - 1
    is_pair = (query < N)[:, None] & (key < N)[None, :]
    offset = (dy * (2 * WINDOW - 1) + dx) * heads + head
    bias = tl.load(table + offset, mask=is_pair, other=0.0).to(ACC)
    return tl.where((key < N)[None, :], bias, float('-inf'))


@triton.jit
def _inverse_length(rows, ACC: tl.constexpr):
    """1 / length of each row; 0 for zero vectors, as `cosines.scale_to_cosines` has it."""
    rows = rows.to(ACC)
    length = tl.sqrt(tl.sum(rows * rows, axis=1))
    return tl.where(length > MIN_LENGTH, 1 / tl.maximum(length, MIN_LENGTH), 0.0)


@triton.jit
def _dot(a, b, PRECISION: tl.constexpr):
    """Matrix product; 'upcast' is for the interpreter, which has none of bfloat16."""
    if PRECISION == 'upcast':
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision='ieee')
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _products(q, k, inverse_q, inverse_k, COSINE: tl.constexpr, PRECISION: tl.constexpr):
    """q k^T, or the cosines of it. Lengths are divided out in ACC, so that none is rounded."""
    products = _dot(q, tl.trans(k), PRECISION)
    if COSINE:
        products = products * inverse_q[:, None] * inverse_k[None, :]
    return products


@triton.jit
def _exponentials(products, scale, bias, region_q, region_k, SHIFTED: tl.constexpr):
    """Numerators of the softmax, of which the greatest of each row is 1."""
    logits = products * scale + bias
    if SHIFTED:
        logits = tl.where(region_q[:, None] == region_k[None, :], logits, float('-inf'))
    return tl.exp(logits - tl.max(logits, axis=1)[:, None])


@triton.jit(do_not_specialize=SIZES)
def attention_forward(
    qkv,
    padding,
    table,
    logit_scale,
    out,
    scale,
    H,
    W,
    padded_h,
    padded_w,
    shift_h,
    shift_w,
    windows,
    strides,
    total_windows,
    heads,
    ACC: tl.constexpr,
    COSINE: tl.constexpr,
    SHIFTED: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    PRECISION: tl.constexpr,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    N: tl.constexpr = WINDOW * WINDOW
    head = tl.program_id(0)
    query = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    key = tl.arange(0, BLOCK_K)
    channels = heads * DIM
    grid = (H, W, padded_h, padded_w, shift_h, shift_w)
    stride_b, stride_h, stride_w = strides
    bias = _load_bias(table, query, key, head, heads, ACC, WINDOW)
    if COSINE:
        scale = tl.load(logit_scale + head).to(ACC)

    number = tl.program_id(1)
    while number < total_windows:  # NumPy 2.4 keeps the interpreter from ranges of tensors
        image = (number // windows).to(tl.int64)
        y_q, x_q, inside_q, region_q = _locate(query, number % windows, grid, WINDOW)
        y_k, x_k, inside_k, region_k = _locate(key, number % windows, grid, WINDOW)
        padded_k = (key < N) & (inside_k == 0)
        base = qkv + image * stride_b + head * DIM
        tile_q = _tile(y_q, x_q, stride_h, stride_w, BLOCK_D)
        tile_k = _tile(y_k, x_k, stride_h, stride_w, BLOCK_D)
        # What queries of the padding attend to is dropped, so that these need no value.
        q = _load(base, tile_q, inside_q, inside_q, padding, DIM, False)
        pad_k = padding + channels + head * DIM
        k = _load(base + channels, tile_k, inside_k, padded_k, pad_k, DIM, HAS_PADDING)
        pad_v = pad_k + channels
        v = _load(base + 2 * channels, tile_k, inside_k, padded_k, pad_v, DIM, HAS_PADDING)

        inverse_q, inverse_k = scale, scale
        if COSINE:
            inverse_q, inverse_k = _inverse_length(q, ACC), _inverse_length(k, ACC)
        products = _products(q, k, inverse_q, inverse_k, COSINE, PRECISION)
        weights = _exponentials(products, scale, bias, region_q, region_k, SHIFTED)
        attended = _dot(weights.to(v.dtype), v, PRECISION)
        attended = attended / tl.sum(weights, axis=1)[:, None]

        base_out = out + image * H * W * channels + head * DIM
        tile_out = _tile(y_q, x_q, W * channels, channels, BLOCK_D)
        is_channel = tl.arange(0, BLOCK_D) < DIM
        mask = inside_q[:, None] & is_channel[None, :]
        tl.store(base_out + tile_out, attended.to(out.dtype.element_ty), mask=mask)
        number += tl.num_programs(1)


@triton.jit(do_not_specialize=SIZES)
def attention_backward(
    qkv,
    padding,
    table,
    logit_scale,
    grad_out,
    grad_qkv,
    sums_bias,
    sums_padding,
    sums_scale,
    scale,
    H,
    W,
    padded_h,
    padded_w,
    shift_h,
    shift_w,
    windows,
    strides,
    total_windows,
    heads,
    ACC: tl.constexpr,
    COSINE: tl.constexpr,
    SHIFTED: tl.constexpr,
    HAS_PADDING: tl.constexpr,
    PRECISION: tl.constexpr,
    WINDOW: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCKS: tl.constexpr,
    WANT_QKV: tl.constexpr,
    WANT_BIAS: tl.constexpr,
):
    """Write the gradient of `qkv`, and one summand a program of those that all windows share.

    Args:
        sums_bias: (programs, heads, N, N), where WANT_BIAS; then BLOCKS is 1.
        sums_padding: (programs, 2, heads, DIM), of keys and values, where WANT_QKV, HAS_PADDING.
        sums_scale: (programs, heads), where WANT_QKV and COSINE.
        BLOCKS: Blocks of queries that a program goes through in each window.
    """
    N: tl.constexpr = WINDOW * WINDOW
    head = tl.program_id(0)
    program = tl.program_id(1)
    key = tl.arange(0, BLOCK_K)
    channel = tl.arange(0, BLOCK_D)
    is_channel = channel < DIM
    channels = heads * DIM
    grid = (H, W, padded_h, padded_w, shift_h, shift_w)
    stride_b, stride_h, stride_w = strides
    query = tl.program_id(2) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    bias = _load_bias(table, query, key, head, heads, ACC, WINDOW)
    if COSINE:
        scale = tl.load(logit_scale + head).to(ACC)
    if WANT_BIAS:
        sum_bias = tl.zeros((BLOCK_Q, BLOCK_K), dtype=ACC)
    if WANT_QKV:
        sum_padding_k = tl.zeros((BLOCK_D,), dtype=ACC)
        sum_padding_v = tl.zeros((BLOCK_D,), dtype=ACC)
        sum_scale = tl.zeros((BLOCK_K,), dtype=ACC)

    number = program
    while number < total_windows:
        image = (number // windows).to(tl.int64)
        y_k, x_k, inside_k, region_k = _locate(key, number % windows, grid, WINDOW)
        padded_k = (key < N) & (inside_k == 0)
        base = qkv + image * stride_b + head * DIM
        base_grad = grad_qkv + image * H * W * 3 * channels + head * DIM
        tile_k = _tile(y_k, x_k, stride_h, stride_w, BLOCK_D)
        pad_k = padding + channels + head * DIM
        k = _load(base + channels, tile_k, inside_k, padded_k, pad_k, DIM, HAS_PADDING)
        pad_v = pad_k + channels
        v = _load(base + 2 * channels, tile_k, inside_k, padded_k, pad_v, DIM, HAS_PADDING)
        inverse_k = scale
        unit_k = k
        if COSINE:
            inverse_k = _inverse_length(k, ACC)
            unit_k = (k.to(ACC) * inverse_k[:, None]).to(k.dtype)
        if WANT_QKV:
            grad_k = tl.zeros((BLOCK_K, BLOCK_D), dtype=ACC)
            grad_v = tl.zeros((BLOCK_K, BLOCK_D), dtype=ACC)
            # Of each key, its product with the gradient of its direction, by the scale.
            along_k = tl.zeros((BLOCK_K,), dtype=ACC)

        for block in range(BLOCKS):
            if BLOCKS > 1:
                query = block * BLOCK_Q + tl.arange(0, BLOCK_Q)
                bias = _load_bias(table, query, key, head, heads, ACC, WINDOW)
            y_q, x_q, inside_q, region_q = _locate(query, number % windows, grid, WINDOW)
            tile_q = _tile(y_q, x_q, stride_h, stride_w, BLOCK_D)
            q = _load(base, tile_q, inside_q, inside_q, padding, DIM, False)
            base_out = grad_out + image * H * W * channels + head * DIM
            tile_out = _tile(y_q, x_q, W * channels, channels, BLOCK_D)
            grad = _load(base_out, tile_out, inside_q, inside_q, padding, DIM, False)

            inverse_q = scale
            unit_q = q
            if COSINE:
                inverse_q = _inverse_length(q, ACC)
                unit_q = (q.to(ACC) * inverse_q[:, None]).to(q.dtype)
            products = _products(q, k, inverse_q, inverse_k, COSINE, PRECISION)
            weights = _exponentials(products, scale, bias, region_q, region_k, SHIFTED)
            weights = weights / tl.sum(weights, axis=1)[:, None]
            # Rows that only pad the tile may have no key at all, and be NaN.
            weights = tl.where(inside_q[:, None], weights, 0.0)
            grad_weights = _dot(grad, tl.trans(v), PRECISION)
            along = tl.sum(weights * grad_weights, axis=1)
            grad_logits = weights * (grad_weights - along[:, None])
            if WANT_BIAS:
                sum_bias += grad_logits
            if WANT_QKV:
                rounded = grad_logits.to(q.dtype)
                grad_v += _dot(tl.trans(weights.to(q.dtype)), grad, PRECISION)
                grad_k += _dot(tl.trans(rounded), unit_q, PRECISION)
                grad_q = scale * _dot(rounded, unit_k, PRECISION)
                if COSINE:
                    # A direction has no gradient along itself.
                    weighted = grad_logits * products
                    along_k += tl.sum(weighted, axis=0)
                    along_q = scale * tl.sum(weighted, axis=1)
                    grad_q -= unit_q.to(ACC) * along_q[:, None]
                    grad_q *= inverse_q[:, None]
                tile = _tile(y_q, x_q, W * 3 * channels, 3 * channels, BLOCK_D)
                mask = inside_q[:, None] & is_channel[None, :]
                tl.store(base_grad + tile, grad_q.to(grad_qkv.dtype.element_ty), mask=mask)

        if WANT_QKV:
            if COSINE:
                sum_scale += along_k
                grad_k -= unit_k.to(ACC) * along_k[:, None]
                grad_k *= inverse_k[:, None]
            grad_k *= scale
            tile = _tile(y_k, x_k, W * 3 * channels, 3 * channels, BLOCK_D)
            mask = inside_k[:, None] & is_channel[None, :]
            element = grad_qkv.dtype.element_ty
            tl.store(base_grad + channels + tile, grad_k.to(element), mask=mask)
            tl.store(base_grad + 2 * channels + tile, grad_v.to(element), mask=mask)
            if HAS_PADDING:
                sum_padding_k += tl.sum(tl.where(padded_k[:, None], grad_k, 0.0), axis=0)
                sum_padding_v += tl.sum(tl.where(padded_k[:, None], grad_v, 0.0), axis=0)
        number += tl.num_programs(1)

    if WANT_BIAS:
        row = (program * heads + head).to(tl.int64) * N + query
        mask = (query < N)[:, None] & (key < N)[None, :]
        tl.store(sums_bias + row[:, None] * N + key[None, :], sum_bias, mask=mask)
    if WANT_QKV:
        if HAS_PADDING:
            place = sums_padding + (program * 2 * heads + head) * DIM + channel
            tl.store(place, sum_padding_k, mask=is_channel)
            tl.store(place + channels, sum_padding_v, mask=is_channel)
        if COSINE:
            tl.store(sums_scale + program * heads + head, tl.sum(sum_scale, axis=0))


@triton.jit
def gather_bias_gradient(
    grad_bias, grad_table, heads, WINDOW: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Sum (heads, N, N) over the pairs of tokens of each offset, to (M, heads)."""
    N: tl.constexpr = WINDOW * WINDOW
    SIDE: tl.constexpr = 2 * WINDOW - 1
    head = tl.program_id(1)
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    query = tl.arange(0, BLOCK_N)
    y = query[None, :] // WINDOW - (row[:, None] // SIDE - (WINDOW - 1))
    x = query[None, :] % WINDOW - (row[:, None] % SIDE - (WINDOW - 1))
    mask = (query < N)[None, :] & (y >= 0) & (y < WINDOW) & (x >= 0) & (x < WINDOW)
    pair = head * N * N + query[None, :] * N + y * WINDOW + x
    total = tl.sum(tl.load(grad_bias + pair, mask=mask, other=0.0), axis=1)
    place = grad_table + row * heads + head
    tl.store(place, total.to(grad_table.dtype.element_ty), mask=row < SIDE * SIDE)
