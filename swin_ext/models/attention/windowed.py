"""Attention on windows that are cut from the map, for implementations that take them so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from swin_ext.models.attention.cosines import scale_to_cosines
from swin_ext.models.attention.position_bias import gather_position_bias
from swin_ext.models.attention.problem import AttentionTerms
from swin_ext.models.attention.windows import Windows, from_windows, to_windows


def attend_in_windows(
    x: Tensor, terms: AttentionTerms, windows: Windows, attend: Callable[..., Tensor]
) -> Tensor:
    """Cut the map into windows, attend in each, and put it together again.

    Args:
        x: (B, H, W, C).
        attend: Computes softmax(scale * q k^T + bias + mask) v, (B * nW, N, nH, C / nH), of:
            qkv: (B * nW, N, 3, nH, C / nH).
            bias: (nH, N, N), added to the logits.
            mask: (nW, 1, N, N), added to the logits of each image, or None.
            scale, dropout_p: See `AttentionTerms`.

    Returns:
        (B, H, W, C), of the type of the projection.
    """
    grid = windows.grid(x)
    cut = to_windows(x, grid)
    qkv = terms.project(cut)
    qkv = qkv.view(*cut.shape[:2], 3, terms.num_heads, cut.shape[2] // terms.num_heads)
    bias = gather_position_bias(terms.table, terms.index)
    if terms.logit_scale is None:
        out = attend(qkv, bias, grid.mask, terms.scale, terms.dropout_p)
    else:
        # Logits reach 116, where float16 has steps of 1/16 and bfloat16 of 1/2: at least float32.
        with torch.autocast(x.device.type, enabled=False):
            precise = qkv.to(torch.promote_types(qkv.dtype, torch.float32))
            cosine_qkv = scale_to_cosines(precise, terms.logit_scale[:, None])
            out = attend(cosine_qkv, bias, grid.mask, 1.0, terms.dropout_p).to(qkv.dtype)
    return from_windows(out.reshape(cut.shape), grid, *x.shape[:3])
