"""That a model sees images which were prepared as those it was trained on."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from swin_ext.engine.errors import SettingError


class PreprocessingMismatchError(SettingError):
    """A checkpoint of a model that was trained on images prepared in another way."""


def preprocessing_of(dataset: Any) -> dict | None:
    """Settings of the first transform that says how it prepares pixels; None without any.

    Such a transform has an attribute `preprocessing` with a method `to_dict()`. Wrappers of data
    sets are looked into.
    """
    pipeline = getattr(dataset, 'pipeline', None)
    for transform in getattr(pipeline, 'transforms', None) or ():
        preprocessing = getattr(transform, 'preprocessing', None)
        if hasattr(preprocessing, 'to_dict'):
            return preprocessing.to_dict()
    inner = list(getattr(dataset, 'datasets', None) or ())
    if getattr(dataset, 'dataset', None) is not None:
        inner.append(dataset.dataset)
    return next((found for found in map(preprocessing_of, inner) if found is not None), None)


def check_preprocessing(runner: Runner, checkpoint: dict, filename: str) -> None:
    """Compare a checkpoint with the data set that its model is to be used on.

    Fine-tuning may change the preprocessing, which is then warned of. Checkpoints and data sets
    that do not say how pixels were prepared pass.

    Raises:
        PreprocessingMismatchError: If they differ where the model is tested or resumed.
    """
    trained = checkpoint.get('meta', {}).get('preprocessing')
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    loop = next((loop for loop in loops if isinstance(loop, BaseLoop)), None)
    current = preprocessing_of(loop.dataloader.dataset) if loop is not None else None
    if trained is None or current is None or trained == current:
        return
    changes = ', '.join(
        f'{key}: {trained.get(key)!r} in the checkpoint, {current.get(key)!r} in the pipeline'
        for key in dict.fromkeys([*trained, *current])
        if trained.get(key) != current.get(key)
    )
    text = (
        f"'{filename}' was trained on images that were prepared in another way than the config "
        f'says: {changes}.'
    )
    if loop is runner._train_loop and not runner._resume:
        runner.logger.warning(f'{text} Fine-tuning goes on with that of the config.')
        return
    raise PreprocessingMismatchError(
        f'{text} Set the transform that loads the images as the checkpoint has it, or use a '
        'checkpoint that was trained with these settings.'
    )
