"""How long each implementation takes, on tensors made for the purpose.

No parameter, hook, generator or gradient of a model takes part. A measurement runs in a thread of
its own, which has none of the modes of the caller's: those of autocast and inference, hooks on
saved tensors (a checkpoint's would count those of the measurement), recorders of operations.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import torch
import torch.nn.functional as F
from mmengine.logging import print_log

from swin_ext.models.attention.position_bias import relative_position_index
from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.windows import Windows

WARM_UPS = 2  # kernels are compiled, memory is allocated
ROUNDS = 3
CALLS = {'cuda': 5, 'cpu': 1}  # in a row, so that launching overlaps as in a model


def measure(
    problem: Problem,
    x_dtype: torch.dtype,
    has_padding_value: bool,
    is_cosine: bool,
    is_training: bool,
    implementations: dict[str, ModuleType],
) -> dict[str, float]:
    """Time one call, and its backward pass if `is_training`, of each implementation.

    Args:
        x_dtype: Of the map; that of the projection is `problem.dtype`.

    Returns:
        Seconds by name, the least of some rounds in turns. What failed is left out, and logged.
    """

    def run():
        calls = {}
        for name, module in implementations.items():
            call = make_call(module, problem, x_dtype, has_padding_value, is_cosine, is_training)
            try:
                for _ in range(WARM_UPS):
                    call()
            except Exception as error:  # out of memory, a compiler's error: it is not chosen
                text = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
                print_log(f'attn_impl={name!r} fails: {text}', 'current', logging.WARNING)
            else:
                calls[name] = call
        times = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                times[name].append(seconds(call, problem.device))
        return {name: min(values) for name, values in times.items()}

    def run_on_device():
        with torch.cuda.device(problem.device if problem.device.type == 'cuda' else -1):
            return run()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(run_on_device).result()


def seconds(call: Callable[[], None], device: torch.device) -> float:
    """Time of one call."""
    calls = CALLS[device.type]
    synchronize = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(calls):
        call()
    synchronize()
    return (time.perf_counter() - start) / calls


def make_call(
    module: ModuleType,
    problem: Problem,
    x_dtype: torch.dtype,
    has_padding_value: bool,
    is_cosine: bool,
    is_training: bool,
) -> Callable[[], None]:
    """What is timed: from the map before the projection to queries, keys and values, to a map."""
    heads, C = problem.num_heads, problem.shape[-1]
    windows = problem.windows

    def full(*shape):  # constants: neither denormal numbers nor draws from a generator
        return torch.full(
            shape, 0.01, dtype=x_dtype, device=problem.device, requires_grad=is_training
        )

    x, weight, bias = full(*problem.shape), full(3 * C, C), full(3 * C)
    table = full((2 * windows.window - 1) ** 2, heads)
    logit_scale = full(heads) if is_cosine else None
    terms = AttentionTerms(
        project=functools.partial(F.linear, weight=weight, bias=bias),
        padding=bias if has_padding_value else None,
        table=table,
        index=relative_position_index(windows.window).to(problem.device),
        num_heads=heads,
        scale=1.0,
        logit_scale=logit_scale,
        dropout_p=0.0,
    )
    leaves = [leaf for leaf in (x, weight, bias, table, logit_scale) if leaf is not None]
    ones = torch.ones(problem.shape, dtype=problem.dtype, device=problem.device)

    def call():
        # Grids are not kept: most are of no use once another implementation is chosen.
        once = Windows(windows.size, windows.window, windows.shift, is_kept=False)
        with torch.set_grad_enabled(is_training):
            with torch.autocast(problem.device.type, problem.dtype, problem.dtype != x_dtype):
                out = module.attend(x, terms, once)
            if is_training:
                torch.autograd.grad(out, leaves, ones, allow_unused=True)

    return call
