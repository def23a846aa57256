"""A checkpoint names how images were prepared, and is not used on others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.dataset import BaseDataset, ConcatDataset, RepeatDataset

from swin_ext.checkpoint.safe_reading import load_checkpoint_file
from swin_ext.engine.preprocessing_check import PreprocessingMismatchError, preprocessing_of
from toy_training import ToyData, make_runner
from two_ranks import log_of

WINDOW = dict(window='1-99', bit_depth=8, percentiles=[1.0, 99.0])
OTHER = dict(WINDOW, percentiles=[0.5, 99.5])


class Settings(dict):
    def to_dict(self):
        return dict(self)


class Load:
    def __init__(self, settings):
        self.preprocessing = Settings(settings)

    def __call__(self, results):
        return results


class Prepared(ToyData):
    """Of a pipeline whose second transform says how it prepares images."""

    def __init__(self, settings):
        transforms = [SimpleNamespace(), Load(settings)] if settings else [SimpleNamespace()]
        self.pipeline = SimpleNamespace(transforms=transforms)


def train(work_dir, settings, **kwargs):
    """With a best checkpoint, and another one, in `work_dir`."""
    hooks = [dict(type='BestCheckpointHook', metric='toy/loss')]
    runner = make_runner(work_dir, hooks=hooks, **kwargs)
    for loader in (runner._train_dataloader, runner._val_dataloader):
        loader['dataset'] = Prepared(settings)
    runner.train()
    return runner


@pytest.mark.parametrize('wrap', [lambda d: d, lambda d: RepeatDataset(d, 2), None])
def test_wrapped_data_sets_are_looked_into(wrap):
    def dataset(transforms):
        built = BaseDataset(lazy_init=True, serialize_data=False)
        built.pipeline = SimpleNamespace(transforms=transforms)
        built.load_data_list = lambda: [dict(img=1)]
        return built

    def concatenated(inner):
        return ConcatDataset([dataset([]), inner])

    assert preprocessing_of((wrap or concatenated)(dataset([Load(WINDOW)]))) == WINDOW
    assert preprocessing_of((wrap or concatenated)(dataset([]))) is None
    assert preprocessing_of(SimpleNamespace()) is None


def test_every_checkpoint_has_it(tmp_path):
    train(tmp_path, WINDOW)
    paths = sorted(tmp_path.glob('*.pth'))
    assert {path.name.split('_')[0] for path in paths} == {'best', 'inference', 'iter'}
    for path in paths:
        assert load_checkpoint_file(path)['meta']['preprocessing'] == WINDOW


def test_data_sets_without_it_leave_none(tmp_path):
    train(tmp_path, None)
    for path in tmp_path.glob('*.pth'):
        assert 'preprocessing' not in load_checkpoint_file(path)['meta']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    train(folder, WINDOW, max_epochs=1)
    return str(folder / 'iter_8.pth')


DIFFERENCE = (
    r"iter_8.pth' was trained on images that were prepared in another way .* percentiles: "
    r'\[1.0, 99.0\] in the checkpoint, \[0.5, 99.5\] in the pipeline'
)


@pytest.mark.parametrize('settings', [WINDOW, None, OTHER], ids=['same', 'none', 'other'])
def test_resuming(tmp_path, trained, settings):
    def resume():
        train(tmp_path, settings, resume=True, load_from=trained)

    if settings is not OTHER:
        resume()
    else:
        with pytest.raises(PreprocessingMismatchError, match=DIFFERENCE):
            resume()


@pytest.mark.parametrize('settings', [WINDOW, None, OTHER], ids=['same', 'none', 'other'])
def test_validating(tmp_path, trained, settings):
    runner = make_runner(tmp_path, load_from=trained)
    runner._val_dataloader['dataset'] = Prepared(settings)
    if settings is not OTHER:
        runner.val()
    else:
        with pytest.raises(ValueError, match=DIFFERENCE):
            runner.val()


@pytest.mark.parametrize('settings', [WINDOW, OTHER], ids=['same', 'other'])
def test_fine_tuning_is_warned(tmp_path, trained, settings):
    runner = train(tmp_path, settings, load_from=trained)
    warned = 'Fine-tuning goes on with that of the config' in log_of(runner)
    assert warned == (settings is OTHER)
    written = load_checkpoint_file(tmp_path / 'iter_20.pth')
    assert written['meta']['preprocessing'] == settings
