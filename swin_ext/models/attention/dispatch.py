"""Which implementation attends. All compute the same function; a new one is one more file here."""

from __future__ import annotations

import functools
import logging

import torch
from mmengine.logging import print_log
from torch import Tensor

from swin_ext.models.attention import eager, sdpa, triton
from swin_ext.models.attention.choices import DEFAULT, shared_choices
from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.tracing import is_traced
from swin_ext.models.attention.windows import Windows

# Each module has `refusal(problem)`, which is None for what it serves, and
# `attend(x, terms, windows)`.
IMPLEMENTATIONS = {'eager': eager, 'sdpa': sdpa, 'triton': triton}
# Asked for by name, these leave to 'auto' what they do not serve, such as a model's inference on
# another device than it was trained on.
FALL_BACK = ('triton',)


def window_attention(x: Tensor, terms: AttentionTerms, windows: Windows, impl: str) -> Tensor:
    """Attend within the windows of a map, shifted ones included.

    Args:
        x: (B, H, W, C), before the projection to queries, keys and values.
        impl: Key of `IMPLEMENTATIONS`, or 'auto'.

    Returns:
        (B, H, W, C), of the type of the projection.

    Raises:
        TypeError: If the implementation asked for, or any, serves such maps not.
    """
    problem = Problem.of(x, terms, windows)
    name = _choose(problem, x, terms, impl)
    return IMPLEMENTATIONS[name].attend(x, terms, windows)


def _choose(problem: Problem, x: Tensor, terms: AttentionTerms, impl: str) -> str:
    if impl != 'auto':
        reason = IMPLEMENTATIONS[impl].refusal(problem)
        if reason is None:
            return impl
        if impl not in FALL_BACK:
            raise TypeError(f'attn_impl={impl!r} cannot attend: {reason}. Choose another one.')
        if not is_traced():
            _warn_once(f"attn_impl={impl!r} is replaced by 'auto': {reason}.")
    reason = IMPLEMENTATIONS[DEFAULT].refusal(problem)
    if reason is not None:
        raise TypeError(f'Window attention has no implementation: {reason}.')
    # Compilers want plain operations; draws of a dropout differ between implementations.
    if is_traced() or type(x) is not Tensor or terms.dropout_p:
        return DEFAULT
    is_training = torch.is_grad_enabled() and (x.requires_grad or terms.table.requires_grad)
    return shared_choices().choose(problem, x.dtype, terms, is_training, IMPLEMENTATIONS)


@functools.cache
def _warn_once(message: str) -> None:
    print_log(message, 'current', logging.WARNING)
