"""What `mim search` and `mim download` say of the shipped configs."""

from __future__ import annotations

from pathlib import Path

import mmdet
import pytest
from mim.commands.search import convert2df
from mmengine.config import Config
from modelindex.load_model_index import load

ROOT = Path(__file__).parents[2]
MODELS = convert2df(load(str(ROOT / 'model-index.yml'))).to_dict('index')
FOLDERS = ('mask_rcnn', 'cascade_rcnn')


def test_each_config_is_listed_under_its_name():
    paths = [path for folder in FOLDERS for path in (ROOT / 'configs' / folder).glob('*.py')]
    paths += (ROOT / 'configs').glob('*.py')
    listed = {Path(model['config']) for model in MODELS.values()}
    assert {path.relative_to(ROOT) for path in paths} <= listed
    for name, model in MODELS.items():
        assert (ROOT / model['config']).is_file() and (ROOT / model['readme']).is_file()
        assert Path(model['config']).stem == name


def test_published_figures_are_those_of_their_source():
    """Of mmdet, by the weights that they are of."""
    upstream = load(str(Path(mmdet.__file__).parent / '.mim/model-index.yml'))
    published = {
        model['weight']: model
        for model in convert2df(upstream).to_dict('index').values()
        if isinstance(model.get('weight'), str)
    }
    compared = 0
    for name, model in MODELS.items():
        if 'mmdetection' in str(model['weight']) and 'mask_rcnn' in name:
            theirs = published[model['weight']]
            for figure in ('coco/box_ap', 'coco/mask_ap', 'epochs'):
                assert model[figure] == theirs[figure], name
            assert 'not run here' in model['figures']
            compared += 1
    assert compared >= 5


@pytest.mark.parametrize('folder', FOLDERS)
def test_weights_to_start_from_are_named(folder):
    """Each URL that a config loads a whole detector from is one that is listed."""
    listed = {model['weight'] for model in MODELS.values()}
    paths = (ROOT / 'configs' / folder).glob('*.py')
    for path in [path for path in paths if 'load_from = (' in path.read_text()]:
        start = Config.fromfile(path).load_from
        assert start in listed, path.name
