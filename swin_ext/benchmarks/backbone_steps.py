"""Steps of a backbone or a detector, their time and their memory."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from swin_ext.benchmarks.backbone_models import OWN, in_one_line

PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}


def forward_step(model: nn.Module, images: Tensor, autocast: Callable) -> None:
    with torch.no_grad(), autocast():
        model(images)


def train_step(model: nn.Module, images: Tensor, autocast: Callable) -> None:
    with autocast():
        loss = sum(x.mean() for x in model(images))
    loss.backward()
    model.zero_grad(set_to_none=True)


def detector_step(model: nn.Module, batch: dict, autocast: Callable) -> None:
    torch.manual_seed(0)  # draw the same proposals for each model
    with autocast():
        loss, _ = model.parse_losses(model(**batch, mode='loss'))
    loss.backward()
    model.zero_grad(set_to_none=True)


STEPS = {'forward': forward_step, 'train': train_step, 'detector': detector_step}


def activation_bytes(step: Callable[[], None], model: nn.Module) -> int:
    """Bytes that autograd keeps from the forward to the backward pass of a step.

    Each storage counts once and whole, also where a view of it is kept. Parameters and buffers do
    not count; copies of them that autocast makes do.
    """
    resident = {
        x.untyped_storage().data_ptr() for x in itertools.chain(model.parameters(), model.buffers())
    }
    saved = {}

    def pack(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in resident:
            saved[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        step()
    return sum(saved.values())


def peak_cuda_bytes(step: Callable[[], None]) -> int:
    """Highest allocation during a step above what was allocated before, the weights of all."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


def time_in_turns(
    steps: dict[str, Callable[[], None]],
    repeats: int,
    synchronize: Callable[[], None],
    progress: tqdm,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every step once per repeat, in seconds.

    In random order: the memory that one step leaves behind, to be reused or to be given back to
    the system, is the business of the next one.
    """
    times = {name: [] for name in steps}
    order = random.Random(0)
    for _ in range(repeats):
        for name, step in order.sample(sorted(steps.items()), len(steps)):
            synchronize()
            start = clock()
            step()
            synchronize()
            times[name].append(clock() - start)
            progress.update()
    return times


def measure_case(
    models: dict[str, nn.Module],
    mode: str,
    precision: str,
    inputs: Tensor | dict,
    device: torch.device,
    repeats: int,
    progress: tqdm,
) -> dict[str, dict]:
    """Measure all models in one mode and precision; returns what `measure_steps` does."""
    autocast = contextlib.nullcontext
    if PRECISIONS[precision] is not None:
        autocast = partial(torch.autocast, device.type, dtype=PRECISIONS[precision])
    steps = {}
    for name, model in models.items():
        model.train(mode != 'forward')
        steps[name] = partial(STEPS[mode], model, inputs, autocast)
    return measure_steps(steps, models, mode != 'forward', device, repeats, progress)


def measure_steps(
    steps: dict[str, Callable[[], None]],
    models: dict[str, nn.Module],
    with_gradients: bool,
    device: torch.device,
    repeats: int,
    progress: tqdm,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict]:
    """Time steps in turns, after two of each that are not counted.

    Args:
        steps: By name; one that fails is left out from then on.
        models: Of the steps.
        with_gradients: Whether the steps keep anything for a backward pass.
        clock: Seconds, of the wall or of the processor.

    Returns:
        For each model `times_s`, `median_s`, `quartiles_s`, `ratio` (its median by ours) and
        `memory_bytes`; or the `error` that stopped it.
    """
    on_cuda = device.type == 'cuda'
    synchronize = torch.cuda.synchronize if on_cuda else lambda: None
    results, able = {}, {}
    for name, step in steps.items():
        model, memory = models[name], None
        try:
            step()  # warm-up
            if on_cuda:
                memory = peak_cuda_bytes(step)
            elif with_gradients:
                memory = activation_bytes(step, model)
            else:
                step()
        except Exception as error:  # out of memory, an operator without this precision, ...
            results[name] = dict(error=in_one_line(error))
            model.zero_grad(set_to_none=True)
            progress.total -= repeats
            continue
        results[name] = dict(memory_bytes=memory)
        able[name] = step

    for name, times in time_in_turns(able, repeats, synchronize, progress, clock).items():
        lower, median, upper = np.percentile(times, (25, 50, 75)).tolist()
        results[name].update(times_s=times, median_s=median, quartiles_s=(lower, upper))
    for result in results.values():
        if 'times_s' in result:
            own_median = results[OWN].get('median_s')
            result['ratio'] = result['median_s'] / own_median if own_median else None
    return results
