"""Loads a checkpoint for a runner: completely where it tests or resumes, reported always."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterable
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from swin_ext.checkpoint.matching import ADAPTATION, listed, load_weights
from swin_ext.checkpoint.model_file import SCHEME, boxed_path, read_weights
from swin_ext.checkpoint.safe_reading import CheckpointError
from swin_ext.engine.preprocessing_check import check_preprocessing
from swin_ext.engine.terminal import log_file_only
from swin_ext.utils.ranks import on_all_ranks


@mmengine_checkpoint.CheckpointLoader.register_scheme(prefixes=SCHEME, force=True)
def load_boxed(filename: str, map_location: Any = None) -> dict:
    """Read a model that comes with the package, `swin_ext://cmr-nano`, onto the CPU."""
    return read_weights(boxed_path(filename))


def load_checkpoint(
    runner: Runner,
    filename: str,
    map_location: Any = 'cpu',
    strict: bool = False,
    revise_keys: Iterable[tuple[str, str]] = ((r'^module\.', ''),),
) -> dict:
    """Load weights for ``Runner.load_checkpoint``, reported, and refuse half-loaded models.

    Args:
        runner: The runner whose model is loaded.
        filename: Path or URL.
        map_location: As for :func:`torch.load`.
        strict: Whether fine-tuning, too, requires that every tensor fits.
        revise_keys: Pairs (pattern, replacement) applied to the names in the file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: The file holds no weights, or not what is needed to resume; fewer than
            95 % of the backbone's tensors fit; or any tensor does not fit and this is not
            fine-tuning, i.e. :meth:`Runner.train` with ``load_from`` and without ``resume``.
        PreprocessingMismatchError: As `check_preprocessing` says.
    """
    checkpoint = on_all_ranks(
        functools.partial(
            mmengine_checkpoint._load_checkpoint,
            filename,
            map_location=map_location,
            logger='silent',  # the report below says it, too
        )
    )
    weights = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(
            f"'{filename}' holds no state_dict, but a {type(checkpoint).__name__}. Give a "
            'checkpoint written by MMEngine, or a dict of names and tensors.'
        )
    absent = [key for key in ('meta', 'message_hub') if key not in checkpoint]
    if runner._resume and absent:
        raise CheckpointError(
            f"Cannot resume from '{filename}': it holds weights, but no {' and no '.join(absent)} "
            'of an interrupted training. To start a new training from it, give it as load_from, '
            'without resume.'
        )
    if weights is checkpoint:
        checkpoint = {'state_dict': weights}
    check_preprocessing(runner, checkpoint, filename)
    runner.call_hook('after_load_checkpoint', checkpoint=checkpoint)

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    outcome = load_weights(model, checkpoint, revise_keys, checkpoint.pop(ADAPTATION, None))
    report = f"Load checkpoint from '{filename}': {outcome.report()}"
    exact = not (outcome.unfit or outcome.unexpected)
    fine_tuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
    # What is trained from has a line of its own in the summary of the run.
    with log_file_only(runner.logger) if exact and fine_tuning else contextlib.nullcontext():
        runner.logger.log(logging.INFO if exact else logging.WARNING, report)
    runner.loaded = outcome.summary()
    if not outcome.is_same_architecture():
        raise CheckpointError(
            f'The checkpoint is of another architecture. {report}\n'
            f'The model has, e.g.: {listed(outcome.unfit, outcome.in_model)}.\n'
            f'The file has, e.g.: {listed(outcome.in_file, outcome.in_file)}.\n'
            'Use the config that the file was trained with. Weights of a backbone alone are given '
            "to model.backbone.init_cfg=dict(type='Pretrained', checkpoint=...), not to load_from."
        )
    if not exact and (strict or not fine_tuning):
        raise CheckpointError(
            f'The checkpoint does not fit the model, as testing and resuming require. {report}\n'
            'Use the config that the file was trained with, with the same num_classes. To '
            'fine-tune from it, train with load_from and without resume.'
        )
    runner._has_loaded = True
    return checkpoint
