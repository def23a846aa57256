"""Files that are models: what they hold, and that nothing is lost or made up on the way."""

from __future__ import annotations

import json

import pytest
import safetensors
import torch
from mmengine.config import Config

from load_tool import load_tool
from swin_ext.checkpoint import model_file
from swin_ext.checkpoint.config_text import read_config_text
from swin_ext.checkpoint.model_file import (
    boxed_path,
    inference_meta,
    read_model_file,
    source_preprocessing,
    write_model,
)
from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.weight_files import WeightFileNotFoundError
from swin_ext.images.preprocessing import Preprocessing
from swin_ext.version import __version__


@pytest.fixture(scope='module')
def packed(tiny_model, tmp_path_factory):
    """As the tool writes it."""
    path = tmp_path_factory.mktemp('packed') / 'tiny.safetensors'
    load_tool('pack_model').main([str(tiny_model.path), '--out', str(path)])
    return path


def test_what_a_training_leaves_is_plain(tiny_model):
    """PyTorch alone reads it, with its own safe loading."""
    content = torch.load(tiny_model.path, weights_only=True)
    assert content['meta']['swin_ext_version'] == __version__
    assert content['meta']['dataset_meta'] == dict(classes=('LV', 'Myo', 'RV'))
    figures = content['meta']['figures']
    assert {'coco/segm_mAP', 'cmr/dice'} <= set(figures)
    assert all(isinstance(value, float) for value in figures.values())
    run = Config.fromstring(content['meta']['run_cfg'], file_format='.py')
    assert run.model.roi_head.bbox_head.num_classes == 3
    assert run.optim_wrapper.optimizer.lr == 0


def test_packing_keeps_all_but_digits(tiny_model, packed):
    whole, small = read_model_file(tiny_model.path), read_model_file(packed)
    for key in ('config', 'classes', 'preprocessing', 'version', 'figures'):
        assert getattr(small, key) == getattr(whole, key), key
    assert small.sha256 != whole.sha256 and small.name == 'tiny.safetensors'
    for key, tensor in small.state_dict.items():
        assert torch.equal(tensor, whole.state_dict[key].half().float()), key
        assert tensor.dtype == torch.float32
    absent = set(whole.state_dict) - set(small.state_dict)
    assert absent and all(key.endswith('relative_position_index') for key in absent)
    parameters = sum(tensor.numel() for tensor in small.state_dict.values())
    assert packed.stat().st_size < 2 * parameters + 60_000


def test_the_packed_file_has_no_path(tiny_model, packed):
    assert str(tiny_model.root).encode() not in packed.read_bytes()
    with safetensors.safe_open(packed, framework='numpy') as file:
        meta = json.loads(file.metadata()['swin_ext'])
    assert meta['dataset_meta']['classes'] == ['LV', 'Myo', 'RV']


def test_fine_tuning_starts_from_a_packed_model(tiny_model, packed, monkeypatch):
    monkeypatch.setattr(model_file, 'BOX', packed.parent)
    expected = read_model_file(packed).state_dict
    runner = tiny_model.runner('tuned', load_from='swin_ext://tiny', max_epochs=1)
    runner.train_loop  # noqa: B018  # built: this is a training
    runner.load_or_resume()
    own = runner.model.state_dict()
    assert all(torch.equal(own[key], tensor) for key, tensor in expected.items())
    assert own.keys() - expected.keys() == {key for key in own if key.endswith('_index')}


def test_a_model_that_is_not_in_the_box():
    with pytest.raises(WeightFileNotFoundError, match='No model swin_ext://other comes with'):
        boxed_path('swin_ext://other')
    with pytest.raises(WeightFileNotFoundError, match='No model'):
        read_model_file('swin_ext://../cmr-nano')


@pytest.mark.parametrize('name, message', [('a.pth', 'must be named .safetensors')])
def test_a_wrong_name(tiny_model, tmp_path, name, message):
    with pytest.raises(CheckpointError, match=message):
        write_model(tiny_model.path, tmp_path / name)


def test_a_weight_that_float16_cannot_hold(tiny_model, tmp_path):
    content = load_checkpoint_file(tiny_model.path)
    next(iter(content['state_dict'].values())).fill_(1e6)
    torch.save(content, tmp_path / 'large.pth')
    with pytest.raises(CheckpointError, match='values that float16 cannot hold'):
        write_model(tmp_path / 'large.pth', tmp_path / 'large.safetensors')
    assert not (tmp_path / 'large.safetensors').exists()


def test_safetensors_of_others_are_no_model(tmp_path):
    from safetensors.torch import save_file

    save_file({'weight': torch.ones(2)}, tmp_path / 'other.safetensors')
    with pytest.raises(CheckpointError, match='not the config and classes'):
        read_model_file(tmp_path / 'other.safetensors')


def test_a_run_without_config_says_so(tmp_path):
    meta = inference_meta(dict(dataset_meta=dict(classes=('LV',)), cfg=''), {})
    torch.save(dict(meta=meta, state_dict={}), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='not built from a config'):
        read_model_file(tmp_path / 'model.pth')


# Preprocessing

STUDY = Preprocessing(window='study', percentiles=(1, 99))


@pytest.mark.parametrize(
    'own, files, expected',
    [
        (None, None, Preprocessing()),
        (Preprocessing('slice'), None, Preprocessing('slice')),
        (Preprocessing('slice'), Preprocessing(), Preprocessing('slice')),
        (
            Preprocessing(channels='slices'),
            STUDY,
            Preprocessing('study', (1, 99), 'slices', keep_8_bit=True),
        ),
    ],
)
def test_the_way_from_source_files(own, files, expected):
    meta = dict(dataset_meta=dict(preprocessing=files and files.to_dict()))
    meta['preprocessing'] = own and own.to_dict()
    assert source_preprocessing(meta) == expected


# Text of configs


def test_config_text_is_read_as_mmengine_reads_it(tiny_model):
    text = load_checkpoint_file(tiny_model.path)['meta']['run_cfg']
    expected = Config.fromstring(text, file_format='.py')._cfg_dict.to_dict()
    assert read_config_text(text, 'model.pth') == expected


@pytest.mark.parametrize(
    'text, message',
    [
        ('import os', 'line 1 is no assignment'),
        ('a = 1\nb = __import__("os").system("x")', 'line 2 calls something'),
        ('a = dict(**b)', 'line 1 calls something'),
        ('a = [x for x in y]', 'malformed node'),
        ('a = b = 1', 'no assignment to one name'),
        ('a = (', 'never closed'),
        ('a.b = 1', 'no assignment'),
    ],
)
def test_config_text_with_code_is_refused(text, message):
    with pytest.raises(CheckpointError, match=message):
        read_config_text(text, 'model.pth')
