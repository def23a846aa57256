from types import SimpleNamespace

import pytest
from torch import nn

from swin_ext.engine import ClassCheckHook
from swin_ext.engine.hooks.class_check_hook import ClassListError
from swin_ext.utils.errors import UserError
from toy_loop import ToyLoop


class Head(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def make_runner(train=None, val=None, test=None, num_classes=2, resume=False):
    loops = {
        f'_{split}_loop': dict() if classes is None else ToyLoop(classes)
        for split, classes in dict(train=train, val=val, test=test).items()
    }
    model = nn.ModuleDict(dict(rpn_head=Head(1), bbox_head=Head(num_classes)))
    return SimpleNamespace(model=model, _resume=resume, **loops)


def checkpoint(*classes):
    return dict(meta=dict(dataset_meta=dict(classes=classes)))


def test_agreeing_classes_pass():
    hook = ClassCheckHook()
    runner = make_runner(train=('LV', 'Myo'), val=('LV', 'Myo'))
    hook.before_run(runner)
    hook.after_load_checkpoint(runner, checkpoint('LV', 'Myo'))


def test_number_of_classes_must_be_the_heads():
    with pytest.raises(
        ValueError,
        match=r'bbox_head \(Head\) has num_classes=3, but the train '
        r"data set has 2 classes: \['LV', 'Myo'\]. Set num_classes=2",
    ):
        ClassCheckHook().before_run(make_runner(train=('LV', 'Myo'), num_classes=3))


def test_splits_must_agree():
    with pytest.raises(ValueError, match='train and val data sets have different classes'):
        ClassCheckHook().before_run(make_runner(train=('LV', 'Myo'), val=('Myo', 'LV')))


@pytest.mark.parametrize(
    'kwargs', [dict(test=('LV', 'Myo')), dict(train=('LV', 'Myo'), resume=True)]
)
def test_permuted_checkpoint_is_refused_for_test_and_resume(kwargs):
    with pytest.raises(ValueError, match=r"checkpoint: \['Myo', 'LV'\]"):
        ClassCheckHook().after_load_checkpoint(make_runner(**kwargs), checkpoint('Myo', 'LV'))


def test_fine_tuning_may_start_from_other_classes():
    runner = make_runner(train=('LV', 'Myo'))
    ClassCheckHook().after_load_checkpoint(runner, checkpoint('person', 'cat', 'dog'))
    ClassCheckHook().after_load_checkpoint(runner, dict(meta={}))


@pytest.mark.parametrize('part', ['backbone', 'teacher', 'rpn_head'])
def test_parts_with_classes_of_their_own_are_left_alone(part):
    runner = make_runner(train=('LV', 'Myo'))
    runner.model[part] = nn.ModuleDict(dict(classifier=Head(1000)))
    ClassCheckHook().before_run(runner)


def test_errors_are_the_users():
    assert issubclass(ClassListError, UserError) and issubclass(ClassListError, ValueError)
