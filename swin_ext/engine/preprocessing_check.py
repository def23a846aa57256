"""That a model sees images which were prepared as those it was trained on."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from swin_ext.datasets.neighbours import all_transforms
from swin_ext.engine.errors import SettingError


class PreprocessingMismatchError(SettingError):
    """A checkpoint of a model that was trained on images prepared in another way."""


def preprocessing_of(dataset: Any) -> dict | None:
    """Settings of the first transform that says how it prepares pixels; None without any.

    Such a transform has an attribute `preprocessing` with a method `to_dict()`. Wrappers of
    transforms and of data sets are looked into.
    """
    pipeline = getattr(dataset, 'pipeline', None)
    for transform in all_transforms(list(getattr(pipeline, 'transforms', None) or ())):
        preprocessing = getattr(transform, 'preprocessing', None)
        if hasattr(preprocessing, 'to_dict'):
            return preprocessing.to_dict()
    inner = list(getattr(dataset, 'datasets', None) or ())
    if getattr(dataset, 'dataset', None) is not None:
        inner.append(dataset.dataset)
    return next((found for found in map(preprocessing_of, inner) if found is not None), None)


def _of_files(metainfo: dict | None) -> dict | None:
    """What `CMRDataset` read of the making of its image files."""
    return (metainfo or {}).get('preprocessing')


def _differences(trained: dict | None, current: dict | None, where: str) -> list[str]:
    if trained is None or current is None:
        return []
    return [
        f'{key}: {trained.get(key)!r} in the checkpoint, {current.get(key)!r} in the {where}'
        for key in dict.fromkeys([*trained, *current])
        if trained.get(key) != current.get(key)
    ]


def check_preprocessing(runner: Runner, checkpoint: dict, filename: str) -> None:
    """Compare a checkpoint with the data set that its model is to be used on.

    Fine-tuning may change the preprocessing, which is then warned of. Checkpoints and data sets
    that do not say how pixels were prepared pass.

    Raises:
        PreprocessingMismatchError: If they differ where the model is tested or resumed.
    """
    meta = checkpoint.get('meta', {})
    loops = (runner._train_loop, runner._val_loop, runner._test_loop)
    loop = next((loop for loop in loops if isinstance(loop, BaseLoop)), None)
    if loop is None:
        return
    dataset = loop.dataloader.dataset
    changes = _differences(meta.get('preprocessing'), preprocessing_of(dataset), 'pipeline')
    changes += _differences(
        _of_files(meta.get('dataset_meta')),
        _of_files(getattr(dataset, 'metainfo', None)),
        'annotation file, which says how its images were made',
    )
    if not changes:
        return
    text = (
        f"'{filename}' was trained on images that were prepared in another way than the config "
        f'says: {", ".join(changes)}.'
    )
    if loop is runner._train_loop and not runner._resume:
        runner.logger.warning(f'{text} Fine-tuning goes on with that of the config.')
        return
    raise PreprocessingMismatchError(
        f'{text} Set the transform that loads the images as the checkpoint has it, or use a '
        'checkpoint that was trained with these settings.'
    )
