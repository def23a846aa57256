"""`read_checkpoint` gives back what other programs wrote, and runs nothing."""

import builtins
import os
import pickle
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from swin_ext.checkpoint.safe_reading import CheckpointError
from swin_ext.checkpoint.weight_files import read_checkpoint

TENSORS = OrderedDict(
    weight=torch.arange(6.0).reshape(2, 3), half=torch.ones(3).half(), index=torch.arange(4)
)


def assert_tensors(state_dict):
    assert list(state_dict) == list(TENSORS)
    for name, value in state_dict.items():
        value = torch.as_tensor(value)
        assert value.dtype == TENSORS[name].dtype and value.equal(TENSORS[name])


@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.pth.tar'])
@pytest.mark.parametrize('zipped', [True, False])
def test_torch(tmp_path, suffix, zipped):
    path = tmp_path / f'model{suffix}'
    torch.save({'model': TENSORS, 'epoch': 3}, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_checkpoint(str(path))
    assert checkpoint['epoch'] == 3
    assert_tensors(checkpoint['model'])


def test_safetensors(tmp_path):
    save_file = pytest.importorskip('safetensors.torch').save_file
    save_file(dict(TENSORS), tmp_path / 'model.safetensors')
    checkpoint = read_checkpoint(tmp_path / 'model.safetensors')
    assert_tensors({name: checkpoint[name] for name in TENSORS})


def test_safetensors_not_installed(tmp_path, monkeypatch):
    (tmp_path / 'model.safetensors').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'safetensors.torch', None)
    with pytest.raises(ImportError, match='pip install safetensors'):
        read_checkpoint(tmp_path / 'model.safetensors')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pkl_of_arrays(tmp_path, protocol):
    """As detectron2 writes them."""
    arrays = {name: value.numpy() for name, value in TENSORS.items()}
    content = {'model': arrays, '__author__': 'third_party', 'loss': np.float32(0.5)}
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps(content, protocol))
    checkpoint = read_checkpoint(tmp_path / 'model.pkl')
    assert checkpoint['loss'] == 0.5
    assert_tensors(checkpoint['model'])


@pytest.mark.parametrize('core', [b'numpy.core', b'numpy._core'])
def test_pkl_of_either_numpy(tmp_path, core):
    data = pickle.dumps({'weight': TENSORS['weight'].numpy()}, protocol=2)
    for written in (b'numpy._core', b'numpy.core'):
        data = data.replace(written, core)
    (tmp_path / 'model.pkl').write_bytes(data)
    assert torch.as_tensor(read_checkpoint(tmp_path / 'model.pkl')['weight']).equal(
        TENSORS['weight']
    )


@pytest.mark.parametrize('protocol', range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pkl_of_tensors(tmp_path, protocol):
    """As Mask2Former's conversion script writes them."""
    content = {'model': {**TENSORS, 'index': torch.nn.Parameter(TENSORS['index'], False)}}
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps(content, protocol))
    assert_tensors(read_checkpoint(tmp_path / 'model.pkl')['model'])


class Attack:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pkl_cannot_forge_pointers(tmp_path):
    """A dtype whose flags say 'object' would have NumPy take the array's bytes for addresses."""
    data = pickle.dumps({'x': np.full(2, 0x4141414141414141)}, protocol=2)
    flags = b'K\x00tq'  # of the dtype's state: no flag is set
    assert data.count(flags) == 1
    (tmp_path / 'model.pkl').write_bytes(data.replace(flags, b'K\x3ftq'))
    array = read_checkpoint(tmp_path / 'model.pkl')['x']
    assert array.tolist() == [0x4141414141414141] * 2


class NestedAttack(Attack):
    """Hides the attack in the bytes of a tensor's storage."""

    def __reduce__(self):
        path = self.path.with_suffix('.inner')
        torch.save(Attack(self.path), path, _use_new_zipfile_serialization=False)
        return torch.storage._load_from_bytes, (path.read_bytes(),)


@pytest.mark.parametrize('attack', [Attack, NestedAttack])
@pytest.mark.parametrize('suffix', ['.pkl', '.pth'])
def test_runs_no_code(tmp_path, attack, suffix):
    path, trace = tmp_path / f'model{suffix}', tmp_path / 'trace'
    content = {'weight': attack(trace)}
    if suffix == '.pkl':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=f'{path.name}.*(mkdir|_load_from_bytes)'):
        read_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize('target', [builtins.eval, os.system, torch.load, np.load])
def test_pkl_names_what_it_refused(tmp_path, target):
    (tmp_path / 'model.pkl').write_bytes(pickle.dumps({'x': target}))
    name = f'{target.__module__}.{target.__name__}'
    with pytest.raises(CheckpointError, match=f'model.pkl was not read: GLOBAL {name}. Names'):
        read_checkpoint(tmp_path / 'model.pkl')


@pytest.mark.parametrize('name', ['model.pth', 'model.pkl', 'model.safetensors'])
@pytest.mark.parametrize(
    'content',
    [b'', b'<!DOCTYPE html>', b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146'],
)
def test_damaged(tmp_path, name, content):
    if name.endswith('.safetensors'):
        pytest.importorskip('safetensors')
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f'{name}.*(download it again|nothing but arrays)'):
        read_checkpoint(tmp_path / name)


def test_cut_short(tmp_path):
    torch.save(TENSORS, tmp_path / 'whole.pth')
    (tmp_path / 'model.pth').write_bytes((tmp_path / 'whole.pth').read_bytes()[:-200])
    with pytest.raises(CheckpointError, match='download it again'):
        read_checkpoint(tmp_path / 'model.pth')


def test_not_a_dict(tmp_path):
    torch.save(torch.zeros(3), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='model.pth holds a Tensor, not a state dict'):
        read_checkpoint(tmp_path / 'model.pth')


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no checkpoint file .*model.pth'):
        read_checkpoint(tmp_path / 'model.pth')
