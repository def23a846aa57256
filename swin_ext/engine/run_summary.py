"""A run in a few lines: what it is trained or tested on, what, where, and where the outputs are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from swin_ext.engine.loops import ExactResumeMixin
from swin_ext.engine.terminal import log_file_of
from swin_ext.evaluation.results_table import COLUMNS, class_table, to_markdown

MAX_CLASSES = 20  # rows of the table of a validation, names in the summary
MAX_OTHERS = 8  # figures of metrics that are not this package's


def describe_run(runner: Runner, mode: str) -> str:
    """The lines about a run that is about to begin.

    Args:
        mode: 'train', 'val' or 'test'.
    """
    loader = getattr(runner, f'{mode}_dataloader')
    lines = {}
    if mode == 'train':
        lines['train'] = f'{_images(loader)}; {_length(runner)}'
        if runner.val_loop is not None:
            lines['val'] = f'{_images(runner.val_dataloader)}; {_validations(runner.train_loop)}'
        lines['start'] = _start(runner)
    else:
        lines[mode] = _images(loader)
        lines['weights'] = runner._load_from or 'random: no checkpoint is given'
    classes = classes_of(loader)
    if classes:
        lines['classes'] = f'{_shortened(classes)} ({len(classes)})'
    lines['model'] = _model(runner)
    lines['device'] = _device()
    lines['outputs'] = runner.work_dir
    lines['log'] = f'{log_file_of(runner.logger)} (with environment, config and hooks)'
    width = max(map(len, lines)) + 1
    title = dict(train='Training', val='Validation', test='Test')[mode]
    return f'{title} of {runner.experiment_name}\n' + '\n'.join(
        f'    {name + ":":<{width}} {text}' for name, text in lines.items()
    )


def describe_figures(figures: dict[str, float], classes: Sequence[str]) -> str:
    """A handful of figures in a line, and those of each class below it as a table.

    The line has the means over classes of this package's metrics, and the first figures of others.
    """
    summary = [key for _, _, key in COLUMNS if key in figures]
    others = [key for key in figures if not key.startswith(('coco/', 'cmr/'))]
    others = others if summary else list(figures)
    shown = summary + others[:MAX_OTHERS]
    line = '  '.join(f'{key}: {_number(figures[key])}' for key in shown)
    if len(others) > MAX_OTHERS:
        line += f'  ({len(others) - MAX_OTHERS} more in the log file)'
    heading, *rows, mean = class_table(figures, classes)
    if len(heading) == 1:
        return line
    left_out = len(rows) - MAX_CLASSES
    text = f'{line}\n' + to_markdown([heading, *rows[:MAX_CLASSES], mean])
    return text if left_out <= 0 else f'{text}\n({left_out} more classes are in the log file)'


def classes_of(loader: DataLoader) -> Sequence[str]:
    """Names of the classes of a data set; none if it does not tell."""
    return (getattr(loader.dataset, 'metainfo', None) or {}).get('classes', ())


def _number(value) -> str:
    return f'{value:.4f}' if isinstance(value, float) else str(value)


def _shortened(names: Sequence[str]) -> str:
    return ', '.join(names[:MAX_CLASSES]) + (', ...' if len(names) > MAX_CLASSES else '')


def _images(loader: DataLoader) -> str:
    """Number of images and how they are grouped; `batch_sampler` may be of any type."""
    size = getattr(loader, 'batch_size', None) or getattr(loader.batch_sampler, 'batch_size', None)
    return f'{len(loader.dataset)} images' + (f' in batches of {size}' if size else '')


def _validations(loop: BaseLoop) -> str:
    by_epoch = isinstance(loop, EpochBasedTrainLoop) and not isinstance(loop, ExactResumeMixin)
    unit = 'epochs' if by_epoch else 'iterations'
    return f'validation every {loop.val_interval} {unit}, from {loop.val_begin} on'


def _length(runner: Runner) -> str:
    text = f'{runner.max_iters} iterations'
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        text += f' (max_epochs={runner.max_epochs})'
    return text


def _start(runner: Runner) -> str:
    if runner._resume and runner.iter:
        return f'iteration {runner.iter} of {runner._load_from}'
    if runner._load_from is None:
        return 'as the model is initialised'
    loaded = getattr(runner, 'loaded', None)  # said by this package's runner
    return f'weights of {runner._load_from}' + (f': {loaded}' if loaded else '')


def _model(runner: Runner) -> str:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    parts = [type(model).__name__]
    if hasattr(model, 'backbone'):
        parts.append(type(model.backbone).__name__)
    parameters = list(model.parameters())
    total = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return f'{", ".join(parts)}; {total:,} parameters, {trained:,} of them are trained'


def _device() -> str:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else get_device()
    processes = get_world_size()
    return name if processes == 1 else f'{name}, {processes} processes'
