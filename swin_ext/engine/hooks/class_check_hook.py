"""Refuses to run a model on a data set with other classes."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop

from swin_ext.utils.errors import UserError

# Parts with classes of their own: an RPN tells objects from background, whatever their class, a
# backbone may have been a classifier, a teacher is another model, and the segmentor inside of a
# `MmsegPixelClassifier`, which has the number of classes itself, counts the background, too.
NOT_HEADS = {'rpn_head', 'backbone', 'teacher', 'segmentor'}


class ClassListError(UserError, ValueError):
    """Classes of a model, a data set and a checkpoint that contradict each other."""


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compare the classes of model, data sets and checkpoint before the first iteration.

    Raises:
        ClassListError: If two splits have different class lists, a head's `num_classes` is not
            their length, or a checkpoint that is tested or resumed was trained on another list
            (the same names in another order included).
    """

    priority = 'VERY_HIGH'

    def before_run(self, runner: Runner) -> None:
        (split, classes), *others = class_lists(runner).items()
        for other_split, other_classes in others:
            if other_classes != classes:
                raise ClassListError(
                    f'The {split} and {other_split} data sets have different classes:\n'
                    f'  {split}: {classes}\n  {other_split}: {other_classes}\n'
                    'Set the same metainfo.classes for both.'
                )
        for name, module in runner.model.named_modules():
            heads_classes = getattr(module, 'num_classes', None)
            if heads_classes is None or NOT_HEADS.intersection(name.split('.')):
                continue
            if len(classes) == heads_classes:
                continue
            raise ClassListError(
                f'{name} ({type(module).__name__}) has num_classes={heads_classes}, but the '
                f'{split} data set has {len(classes)} classes: {classes}. Set num_classes='
                f'{len(classes)} in the config (or --cfg-options num_classes={len(classes)}), or '
                'choose as many classes in metainfo.classes.'
            )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        fine_tuning = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        trained_on = checkpoint_classes(checkpoint)
        if fine_tuning or trained_on is None:
            return
        for split, classes in class_lists(runner).items():
            if trained_on != classes:
                raise ClassListError(
                    f'The checkpoint was trained on other classes than the {split} data set has, '
                    f'or in another order:\n  checkpoint: {trained_on}\n'
                    f'  {split}: {classes}\nSet metainfo.classes to the list of the checkpoint.'
                )


def checkpoint_classes(checkpoint: dict) -> list | None:
    """Class names that mmdet 3 (`classes`), its first releases or mmdet 2 (`CLASSES`) wrote."""
    meta = checkpoint.get('meta') or {}
    meta = meta.get('dataset_meta') or meta
    names = meta.get('classes') or meta.get('CLASSES')
    return None if names is None else list(names)


def class_lists(runner: Runner) -> dict[str, list]:
    """Class names of each split whose loop has been built; labels index them."""
    loops = dict(train=runner._train_loop, val=runner._val_loop, test=runner._test_loop)
    return {
        split: list(loop.dataloader.dataset.metainfo['classes'])
        for split, loop in loops.items()
        if isinstance(loop, BaseLoop)
    }
