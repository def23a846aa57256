"""Which implementation attends. All compute the same function; a new one is one more file here."""

from __future__ import annotations

from torch import Tensor

from swin_ext.models.attention import eager, sdpa

# Each module has `attend` and `serves(device, dtype)`. 'auto' takes the first one that serves.
IMPLEMENTATIONS = {'eager': eager, 'sdpa': sdpa}


def window_attention(
    qkv: Tensor, bias: Tensor, mask: Tensor | None, scale: float, dropout_p: float, impl: str
) -> Tensor:
    """Attend within windows: softmax(scale * q k^T + bias + mask) v.

    Args:
        qkv: (B * nW, N, 3, nH, C / nH).
        bias: (nH, N, N), added to the logits.
        mask: (nW, 1, N, N), added to the logits of each image.
        impl: Key of `IMPLEMENTATIONS`, or 'auto'.

    Returns:
        (B * nW, N, nH, C / nH).

    Raises:
        TypeError: If the implementation asked for, or any, serves such tensors not.
    """
    candidates = IMPLEMENTATIONS if impl == 'auto' else {impl: IMPLEMENTATIONS[impl]}
    for candidate in candidates.values():
        if candidate.serves(qkv.device, qkv.dtype):
            return candidate.attend(qkv, bias, mask, scale, dropout_p)
    raise TypeError(
        f'Window attention has no implementation for {qkv.dtype} on {qkv.device.type} among '
        f'{", ".join(candidates)}: choose another attn_impl, or a floating dtype.'
    )
