"""MMEngine's checkpoints load without running code, and only into the model they are of."""

from __future__ import annotations

import ast
import functools
import http.server
import io
import operator
import os
import pathlib
import pickle
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import types
import zipfile

import mmengine.runner.checkpoint as mmengine_checkpoint
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import nn

from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.engine.runner import SwinExtRunner
from swin_ext.engine.upstream_patches import patch_mmengine

allow_listing = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.6'),
    reason='PyTorch before 2.6 cannot allow globals for weights_only under another name',
)
FORMATS = pytest.mark.parametrize('is_zip', [True, False], ids=['zip', 'legacy'])


@pytest.fixture(autouse=True)
def patched(monkeypatch, tmp_path):
    patch_mmengine()
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    monkeypatch.setenv('no_proxy', '*')
    # These only take time: the one calls compilers, the other formats the config.
    monkeypatch.setattr(SwinExtRunner, '_log_env', lambda runner, env_cfg: None)
    monkeypatch.setattr(SwinExtRunner, 'dump_config', lambda runner: None)


# A toy detector and its training


@MODELS.register_module()
class SafeCheckpointNet(BaseModel):
    def __init__(self, num_classes=2, depth=2, width=3, part='backbone', data_preprocessor=None):
        super().__init__(data_preprocessor)
        layers = [nn.Linear(2, width)]
        for _ in range(depth):
            layers += [nn.BatchNorm1d(width), nn.Linear(width, width)]
        self.add_module(part, nn.Sequential(*layers))
        self.part = part
        self.head = nn.Linear(width, num_classes)

    def forward(self, x, mode='tensor', **meta):
        scores = self.head(getattr(self, self.part)(torch.stack(x)))
        return {'loss': scores.square().mean()} if mode == 'loss' else list(scores)


@MODELS.register_module()
class SafeCheckpointTTA(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [samples[0] for samples in data_samples_list]


@DATASETS.register_module()
class SafeCheckpointData(BaseDataset):
    METAINFO = dict(
        classes=('lv', 'rv'),
        palette=[(255, 0, 0), (0, 255, 0)],
        spacing_mm=np.array([1.5, 1.5, 8.0], dtype=np.float32),
        names=np.array(['LV', 'myocardium']),
        matrix=np.asfortranarray(np.arange(6, dtype='>i2').reshape(2, 3)),
        empty=np.empty((0, 2), dtype=bool),
        scale=np.float32(0.5),
        vendor=np.str_('A'),
    )

    def load_data_list(self):
        return [{'x': torch.tensor([i, 1.0])} for i in range(4)]


@METRICS.register_module()
class SafeCheckpointMetric(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return {'score': np.float64(len(results))}


def make_runner(work_dir, max_epochs=2, model=None, **settings):
    dataset = dict(
        type='SafeCheckpointData',
        metainfo=dict(split=dict(name='train', ids={1, 2})),
        pipeline=[],
        serialize_data=False,
    )
    loader = dict(batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler'))
    cfg = dict(
        model=dict(type='SafeCheckpointNet', **(model or {})),
        work_dir=str(work_dir),
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=max_epochs, val_interval=1),
        val_cfg=dict(),
        test_cfg=dict(),
        val_evaluator=dict(type='SafeCheckpointMetric'),
        test_evaluator=dict(type='SafeCheckpointMetric'),
        optim_wrapper=dict(
            clip_grad=dict(max_norm=1.0), optimizer=dict(type='AdamW', lr=0.01, betas=(0.9, 0.99))
        ),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
            dict(type='MultiStepLR', milestones=[1, 5]),
            dict(type='OneCycleLR', eta_max=0.1, total_steps=20),
            dict(type='ReduceOnPlateauLR', monitor='score', rule='greater'),
        ],
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')
        ),
        custom_hooks=[dict(type='EMAHook')],
        randomness=dict(seed=0),
        default_scope='mmengine',
        experiment_name=f'{pathlib.Path(work_dir).name}_{time.time_ns()}',
    )
    cfg.update(settings)
    return SwinExtRunner.from_cfg(Config(cfg))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Path of a checkpoint that a Runner wrote after two epochs."""
    work_dir = tmp_path_factory.mktemp('trained')
    make_runner(work_dir).train()
    return work_dir / 'epoch_2.pth'


def trusted_load(path):
    """Read as the checkpoint was written, with everything that pickle can do: the oracle."""
    return torch.load(path, map_location='cpu', weights_only=False)


def assert_same(loaded, original):
    """Compare nested containers by type, value and, for arrays, layout."""
    assert type(loaded) is type(original)
    if isinstance(original, dict):
        assert list(loaded) == list(original)
        for key in original:
            assert_same(loaded[key], original[key])
    elif isinstance(original, (list, tuple)):
        assert len(loaded) == len(original)
        for one, other in zip(loaded, original):
            assert_same(one, other)
    elif isinstance(original, HistoryBuffer):
        # Writing a buffer adds `statistics_methods` to it.
        for one, other in zip(loaded.data, original.data):
            assert_same(one, other)
        assert loaded.max_length == original.max_length
        if len(original.data[0]):
            assert loaded.statistics('mean') == original.statistics('mean')
    elif isinstance(original, np.ndarray):
        assert loaded.dtype == original.dtype and loaded.shape == original.shape
        assert loaded.flags.f_contiguous == original.flags.f_contiguous
        assert loaded.flags.writeable
        np.testing.assert_array_equal(loaded, original)
    elif isinstance(original, torch.Tensor):
        torch.testing.assert_close(loaded, original, rtol=0, atol=0)
    else:
        assert loaded == original


def rewritten(path, target, replace, is_zip):
    """Write a copy of a zip checkpoint whose pickle went through `replace`, in either format."""
    if not is_zip:
        legacy = io.BytesIO()
        torch.save(trusted_load(path), legacy, _use_new_zipfile_serialization=False)
        target.write_bytes(replace(legacy.getvalue()))
        return target
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, 'w') as copy:
        for name in source.namelist():
            data = source.read(name)
            copy.writestr(name, replace(data) if name.endswith('/data.pkl') else data)
    return target


# What MMEngine writes


@allow_listing
def test_stock_torch_rejects_the_checkpoint(trained):
    with pytest.raises(pickle.UnpicklingError, match='Unsupported global'):
        torch.load(trained, weights_only=True)


@FORMATS
@pytest.mark.parametrize('written_by', [b'numpy.core', b'numpy._core'])
def test_mmengine_checkpoint_of_numpy_1_and_2(trained, tmp_path, written_by, is_zip):
    def rename(data):
        return re.sub(rb'(?<=c)numpy\._?core(?=\.multiarray\n)', written_by, data)

    path = rewritten(trained, tmp_path / 'renamed.pth', rename, is_zip)
    content = path.read_bytes()
    for name in ('_reconstruct', 'scalar'):
        assert written_by + b'.multiarray\n' + name.encode() in content
    for name in (b'__builtin__\ngetattr', b'OneCycleParamScheduler', b'HistoryBuffer', b'Config'):
        assert name in content
    assert_same(load_checkpoint_file(path, map_location='cpu'), trusted_load(trained))


def test_checkpoint_of_mmcv_1(tmp_path):
    meta = dict(
        env_info='sys.platform: linux\nPyTorch: 1.9.0',
        config="model = dict(type='MaskRCNN')",
        seed=None,
        exp_name='mask_rcnn_swin.py',
        epoch=12,
        iter=87960,
        mmdet_version='2.11.0+e5c3a4d',
        CLASSES=('person', 'bicycle'),
        PALETTE=[[220, 20, 60]],
        hook_msgs=dict(best_score=np.float64(0.427), best_ckpt='epoch_12.pth'),
    )
    weights = {'backbone.norm.weight': torch.arange(3.0), 'steps': torch.tensor(3)}
    torch.save(dict(meta=meta, state_dict=weights), tmp_path / 'old.pth')
    loaded = load_checkpoint_file(tmp_path / 'old.pth')
    assert_same(loaded, dict(meta=meta, state_dict=weights))


def test_the_allow_list_of_the_user_counts_and_is_kept(tmp_path, request):
    if not hasattr(torch.serialization, 'get_safe_globals'):
        pytest.skip('PyTorch before 2.4 has no allow-list')
    get_safe_globals = torch.serialization.get_safe_globals
    before = get_safe_globals()
    request.addfinalizer(lambda: torch.serialization.add_safe_globals(before))
    request.addfinalizer(torch.serialization.clear_safe_globals)
    # Values that are read by the stand-ins, even if the user allowed the originals.
    reconstruct, (array_type, *_), _ = np.zeros(2).__reduce__()
    torch.serialization.add_safe_globals(
        [reconstruct, array_type, np.dtype, type(np.dtype('f8')), Slices, HistoryBuffer]
    )
    mine = set(get_safe_globals())
    saved = [np.zeros(2), HistoryBuffer([1.0], [1]), HistoryBuffer()]
    torch.save(saved, tmp_path / 'numpy.pth')
    assert_same(load_checkpoint_file(tmp_path / 'numpy.pth'), saved)
    torch.save([Slices()], tmp_path / 'own.pth')
    if digit_version(torch.__version__) >= digit_version('2.6'):
        assert isinstance(load_checkpoint_file(tmp_path / 'own.pth')[0], Slices)
    assert set(get_safe_globals()) == mine


class Slices:
    """A class of a user."""


def test_patched_names_are_all_that_mmengine_uses():
    tree = ast.parse(pathlib.Path(mmengine_checkpoint.__file__).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == 'torch'
    }
    assert used == set(vars(mmengine_checkpoint.torch))


# What it must not run


class Calls:
    """Is pickled as a call of `function`."""

    def __init__(self, function, *args, state=None):
        self.reduced = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.reduced


def nested_load(marker):
    inner = io.BytesIO()
    torch.save(Calls(os.system, f'touch {marker}'), inner)
    return Calls(torch.storage._load_from_bytes, inner.getvalue())


# Name that must be refused -> what creates the file `marker` when it is unpickled.
GADGETS = {
    '(posix|nt).system': lambda marker: Calls(os.system, f'touch {marker}'),
    'builtins.eval': lambda marker: Calls(eval, f'open({str(marker)!r}, "w")'),
    'builtins.exec': lambda marker: Calls(exec, f'open({str(marker)!r}, "w")'),
    '(subprocess|commands).check_call': lambda marker: Calls(
        subprocess.check_call, ['touch', str(marker)]
    ),
    r'pathlib\S*': lambda marker: Calls(pathlib.Path.touch, pathlib.Path(marker)),
    'functools.partial': lambda marker: Calls(functools.partial(os.system, f'touch {marker}')),
    '_?operator.methodcaller': lambda marker: Calls(
        operator.methodcaller('touch'), pathlib.Path(marker)
    ),
    'torch.storage._load_from_bytes': nested_load,
}
REFUSED = (
    r"Refused to load the checkpoint '{file}': it asks for '{name}'.*No code of the file was run"
)


def save(payload, path, place='meta', is_zip=True):
    checkpoint = dict(meta={'epoch': 1}, state_dict={'head.weight': torch.zeros(2)})
    if place == 'history':
        buffer = HistoryBuffer([1.0], [1])
        buffer.extra = payload
        checkpoint['message_hub'] = dict(log_scalars=dict(loss=buffer))
    else:
        checkpoint[place]['more'] = payload
    torch.save(checkpoint, path, _use_new_zipfile_serialization=is_zip)


@FORMATS
@pytest.mark.parametrize('place', ['state_dict', 'meta', 'history'])
@pytest.mark.parametrize('name', GADGETS)
def test_code_in_a_checkpoint_is_refused(tmp_path, name, place, is_zip):
    marker, path = tmp_path / 'marker', tmp_path / 'bad.pth'
    payload = GADGETS[name](marker)
    pickle.loads(pickle.dumps(payload, protocol=2))
    assert marker.exists(), 'the payload is harmless, so that this test proves nothing'
    marker.unlink()

    save(payload, path, place, is_zip)
    with pytest.raises(CheckpointError, match=REFUSED.format(file=path, name=name)):
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')
    assert not marker.exists()


@FORMATS
@pytest.mark.parametrize(
    ('owner', 'name'),
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, '__getstate__'),
        (OneCycleParamScheduler, 'min'),
        (torch.Tensor, 'tofile'),
        (HistoryBuffer([1.0], [1]), 'min'),
    ],
)
def test_getattr_gives_the_methods_that_mmengine_pickles_alone(tmp_path, owner, name, is_zip):
    path = tmp_path / 'bad.pth'
    save(Calls(getattr, owner, name), path, is_zip=is_zip)
    with pytest.raises(CheckpointError, match=rf"asks for 'builtins.getattr\(\w+,'{name}'\)'"):
        load_checkpoint_file(path)


@FORMATS
def test_forged_numpy_dtypes_have_no_effect(tmp_path, is_zip):
    path = tmp_path / 'bad.pth'
    # An object dtype that claims to hold no references: the bytes would become addresses.
    pointers = Calls(np.dtype, 'O8', False, True, state=(3, '|', None, None, None, -1, -1, 0))
    save(pointers, path, is_zip=is_zip)
    with pytest.raises(CheckpointError, match=r"asks for 'numpy.dtype\('O8'\)'"):
        load_checkpoint_file(path)
    # Numbers that claim to be references (flags 63).
    numbers = Calls(np.dtype, 'f8', False, True, state=(3, '<', None, None, None, -1, -1, 63))
    assert pickle.loads(pickle.dumps(numbers)).hasobject
    save(numbers, path, is_zip=is_zip)
    dtype = load_checkpoint_file(path)['meta']['more']
    assert dtype == np.float64 and not dtype.hasobject and not np.dtype('f8').hasobject


@pytest.mark.parametrize('inst', [b'ctorch\nTensor\n', b'ctorch._utils\n_rebuild_tensor\n'])
def test_a_file_cannot_set_attributes_of_classes_and_functions(tmp_path, inst):
    path = tmp_path / 'bad.pth'
    forged = b'\x80\x02' + inst + b'N}X\x04\x00\x00\x00evilK\x01s\x86b.'
    preamble = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    parts = [*(pickle.dumps(part, protocol=2) for part in preamble), forged]
    path.write_bytes(b''.join([*parts, pickle.dumps([], protocol=2)]))
    with pytest.raises(CheckpointError):
        load_checkpoint_file(path)
    assert not hasattr(torch.Tensor, 'evil') and not hasattr(torch._utils._rebuild_tensor, 'evil')


@pytest.fixture
def server(tmp_path):
    """Serve the files of `tmp_path / 'served'`."""
    folder = tmp_path / 'served'
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield folder, f'http://127.0.0.1:{httpd.server_port}'
        httpd.shutdown()


@pytest.mark.parametrize(
    'address',
    [
        '{folder}/x.pth',
        '{url}/x.pth',
        's3://bucket/x.pth',
        'petrel://bucket/x.pth',
        'pavi://x.pth',
        'torchvision://x',
        'openmmlab://x',
        'open-mmlab://local',
        'mmcls://x',
    ],
)
def test_every_kind_of_address_is_safe(server, tmp_path, monkeypatch, address):
    folder, url = server
    backend = types.SimpleNamespace(get=lambda name: (folder / 'x.pth').read_bytes())
    model = types.SimpleNamespace(
        download=lambda target: shutil.copy(folder / 'x.pth', target), name='x.pth'
    )
    pavi = types.ModuleType('pavi')
    pavi.modelcloud = types.SimpleNamespace(get=lambda name: model)
    monkeypatch.setitem(sys.modules, 'pavi', pavi)
    monkeypatch.setenv('MMENGINE_HOME', str(folder))
    models = {'x': f'{url}/x.pth', 'local': 'x.pth'}
    monkeypatch.setattr(mmengine_checkpoint, 'get_file_backend', lambda *args, **kwargs: backend)
    for source in ('torchvision', 'external', 'mmcls'):
        monkeypatch.setattr(mmengine_checkpoint, f'get_{source}_models', lambda: models)
    address = address.format(folder=folder, url=url)

    torch.save({'state_dict': {'backbone.a': torch.ones(1)}}, folder / 'x.pth')
    loaded = CheckpointLoader.load_checkpoint(address, map_location='cpu')
    assert list(loaded['state_dict'].values()) == [torch.ones(1)]

    marker = tmp_path / 'marker'
    shutil.rmtree(tmp_path / 'torch_home', ignore_errors=True)
    save(Calls(os.system, f'touch {marker}'), folder / 'x.pth')
    with pytest.raises(CheckpointError, match=REFUSED.format(file='.+', name='posix.system')):
        CheckpointLoader.load_checkpoint(address, map_location='cpu')
    assert not marker.exists()


# What it cannot read


def unreadable(kind, path):
    whole = io.BytesIO()
    weights = {'a': torch.zeros(1000)}
    torch.save(weights, whole, _use_new_zipfile_serialization='zip' in kind)
    if kind == 'tar':
        with tarfile.open(path, 'w') as tar:
            tar.add(__file__)
    elif kind == 'TorchScript':
        torch.jit.script(nn.Linear(1, 1)).save(path)
    else:
        path.write_bytes(
            {
                'half a zip': whole.getvalue()[:2000],
                'half a legacy file': whole.getvalue()[:2000],
                'half the pickle of a legacy file': whole.getvalue()[:200],
                'empty': b'',
                'html': b'<!DOCTYPE html><html>404</html>',
                'other pickle': pickle.dumps(weights),
            }[kind]
        )


@pytest.mark.parametrize(
    ('kind', 'reason'),
    [
        ('half a zip', 'central directory'),
        ('half a legacy file', 'RuntimeError'),
        ('half the pickle of a legacy file', 'Error'),
        ('empty', "it starts with b''"),
        ('html', "it starts with b'<!DOCTYPE html"),
        ('tar', 'it starts with'),
        ('other pickle', 'it starts with'),
        ('TorchScript', 'it is a TorchScript archive'),
    ],
)
def test_unreadable_file(tmp_path, kind, reason):
    path = tmp_path / 'half.pth'
    unreadable(kind, path)
    size = path.stat().st_size
    expected = rf"'{path}' \({size} bytes\) cannot be read .*{reason}.*truncated.*download it again"
    with pytest.raises(CheckpointError, match=expected):
        load_checkpoint_file(path)


def test_absent_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"'{tmp_path}/no.pth' does not exist"):
        CheckpointLoader.load_checkpoint(f'{tmp_path}/no.pth')


def test_url_without_network(tmp_path, monkeypatch):
    runner = make_runner(tmp_path, load_from='http://127.0.0.1:9/mask_rcnn.pth')
    pauses = []
    monkeypatch.setattr(time, 'sleep', pauses.append)
    with pytest.raises(CheckpointError) as error:
        runner.train()
    assert sum(pauses) < 5
    for part in ('http://127.0.0.1:9/mask_rcnn.pth', 'load_from=/path/', 'load_from=None'):
        assert part in str(error.value)


def test_url_of_a_server_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr('swin_ext.utils.download.TIMEOUT_SECONDS', 0.2)
    monkeypatch.setattr('swin_ext.utils.download.ATTEMPTS', 1)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        url = f'http://127.0.0.1:{silent.getsockname()[1]}/x.pth'
        with pytest.raises(CheckpointError, match='timed out'):
            CheckpointLoader.load_checkpoint(url)


# Whether it fits the model


def report_of(work_dir):
    lines = next(pathlib.Path(work_dir).rglob('*.log')).read_text().splitlines()
    return [line for line in lines if 'Load checkpoint from' in line][-1]


def weights_of(**model):
    torch.manual_seed(1)
    return SafeCheckpointNet(**model).state_dict()


def test_resume_goes_on_as_from_an_unrestricted_load(trained, tmp_path, monkeypatch):
    settings = dict(max_epochs=4, load_from=str(trained), resume=True)
    make_runner(tmp_path / 'safe', **settings).train()
    assert '16 of the 16 tensors of the model loaded; 0 re-initialised' in report_of(tmp_path)
    monkeypatch.setattr(
        'swin_ext.engine.upstream_patches.load_checkpoint_file',
        lambda path, map_location: trusted_load(path),
    )
    make_runner(tmp_path / 'unsafe', **settings).train()
    safe, unsafe = (trusted_load(tmp_path / name / 'epoch_4.pth') for name in ('safe', 'unsafe'))
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(safe[key], unsafe[key])
    losses = safe['message_hub']['log_scalars']['train/loss'].data[0]
    before = trusted_load(trained)['message_hub']['log_scalars']['train/loss'].data[0]
    assert len(losses) == 8
    np.testing.assert_array_equal(losses[:4], before)


def test_test_reports_and_loads_every_tensor(trained, tmp_path):
    runner = make_runner(tmp_path, load_from=str(trained))
    assert runner.test() == {'score': 4.0}
    assert '16 of the 16 tensors of the model loaded; 0 re-initialised' in report_of(tmp_path)
    original = trusted_load(trained)['state_dict']
    assert_same(dict(runner.model.state_dict()), dict(original))


def test_fine_tuning_reports_the_head_of_other_classes(trained, tmp_path):
    make_runner(tmp_path, model=dict(num_classes=5), load_from=str(trained)).train()
    report = report_of(tmp_path)
    assert 'WARNING' in report and '14 of the 16 tensors of the model loaded' in report
    assert 'head.weight [2, 3] -> [5, 3], head.bias [2] -> [5]' in report


HALF_LOADED = {
    'shape': r'1 re-initialised for their other shape \(head.bias \[7\] -> \[2\]\)',
    'missing': r'1 missing in the file \(head.bias\)',
    'surplus': r'1 in the file alone \(head.extra\)',
}


@pytest.mark.parametrize(
    ('use', 'change'),
    [
        *(('test', change) for change in HALF_LOADED),
        ('val', 'shape'),
        ('resume', 'missing'),
        ('resume', 'surplus'),
        ('strict', 'missing'),
    ],
)
def test_a_half_loaded_model_is_neither_tested_nor_resumed(trained, tmp_path, use, change):
    checkpoint = trusted_load(trained)
    for state, prefix in [
        (checkpoint['state_dict'], ''),
        (checkpoint['ema_state_dict'], 'module.'),
    ]:
        bias = state.pop(f'{prefix}head.bias')
        if change != 'missing':
            state[f'{prefix}head.bias'] = torch.zeros(7) if change == 'shape' else bias
        if change == 'surplus':
            state[f'{prefix}head.extra'] = bias
    path = str(tmp_path / 'changed.pth')
    torch.save(checkpoint, path)
    runner = make_runner(
        tmp_path, max_epochs=3, load_from=path, resume=use == 'resume', custom_hooks=[]
    )
    with pytest.raises(CheckpointError, match=f'{HALF_LOADED[change]}[^$]*same num_classes'):
        if use == 'strict':
            runner._train_loop = runner.build_train_loop(runner._train_loop)
            runner.load_checkpoint(path, strict=True)
        else:
            {'test': runner.test, 'val': runner.val, 'resume': runner.train}[use]()


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    'other',
    [
        dict(width=4),
        dict(depth=1),
        dict(depth=3),  # holds every tensor of the model, and more
        dict(part='neck'),
    ],
)
def test_a_checkpoint_of_another_architecture_is_refused(tmp_path, other, train):
    path = str(tmp_path / 'other.pth')
    torch.save(weights_of(**other), path)
    runner = make_runner(tmp_path, load_from=path)
    with pytest.raises(CheckpointError, match='of another architecture') as error:
        runner.train() if train else runner.test()
    part = other.get('part', 'backbone')
    assert f'The file has, e.g.: {part}.0.weight [{other.get("width", 3)}, 2]' in str(error.value)
    if 'depth' not in other:
        assert 'The model has, e.g.: backbone.0.weight [3, 2]' in str(error.value)


def test_a_model_without_backbone_must_share_something(tmp_path):
    model = dict(part='trunk')
    for part in ('trunk', 'stem'):
        weights = weights_of(part=part, num_classes=3 if part == 'trunk' else 2)
        weights = {name: t for name, t in weights.items() if part == 'trunk' or 'head' not in name}
        torch.save(weights, tmp_path / f'{part}.pth')
    make_runner(tmp_path / 'fits', model=model, load_from=str(tmp_path / 'trunk.pth')).train()
    assert 'head.bias [3] -> [2]' in report_of(tmp_path / 'fits')
    with pytest.raises(CheckpointError, match='of another architecture'):
        path = str(tmp_path / 'stem.pth')
        make_runner(tmp_path / 'other', model=model, load_from=path).train()


@pytest.mark.parametrize('wrap', [lambda model: model, nn.DataParallel, 'tta'])
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_wrapped_models_and_wrapped_weights(tmp_path, wrap, prefix):
    weights = weights_of()
    path = str(tmp_path / 'weights.pth')
    torch.save({f'{prefix}{name}': tensor for name, tensor in weights.items()}, path)
    runner = make_runner(tmp_path, custom_hooks=[])
    model = runner.model
    runner.model = SafeCheckpointTTA(model) if wrap == 'tta' else wrap(model)
    runner.load_checkpoint(path)
    assert '16 of the 16 tensors of the model loaded; 0 re-initialised' in report_of(tmp_path)
    assert_same(dict(model.state_dict()), dict(weights))


def test_renaming_by_a_module_counts(tmp_path):
    path = str(tmp_path / 'weights.pth')
    weights = {name.replace('head.', 'old_head.'): t for name, t in weights_of().items()}
    torch.save(weights, path)
    runner = make_runner(tmp_path, custom_hooks=[])

    def rename(state_dict, prefix, *args):
        for name in ('weight', 'bias'):
            state_dict[f'head.{name}'] = state_dict.pop(f'old_head.{name}')

    runner.model._register_load_state_dict_pre_hook(rename)
    runner.load_checkpoint(path)
    assert '16 of the 16 tensors of the model loaded' in report_of(tmp_path)


def test_resume_from_weights_alone(tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save({'state_dict': weights_of(), 'meta': {'epoch': 12, 'iter': 100}}, path)
    with pytest.raises(CheckpointError, match='no message_hub .*give it as load_from'):
        make_runner(tmp_path, load_from=path, resume=True).train()


@pytest.mark.parametrize('content', [[1, 2], {0: torch.zeros(1)}, {'state_dict': [1]}])
def test_file_without_weights(tmp_path, content):
    torch.save(content, tmp_path / 'x.pth')
    with pytest.raises(CheckpointError, match='holds no state_dict'):
        make_runner(tmp_path, load_from=str(tmp_path / 'x.pth')).test()


def test_long_lists_are_shortened(tmp_path):
    path = str(tmp_path / 'weights.pth')
    torch.save({**weights_of(), **{f'other.{i}': torch.zeros(1) for i in range(50)}}, path)
    make_runner(tmp_path, load_from=path).train()
    assert (
        '50 in the file alone (other.0, other.1, other.2, other.3, other.4, other.5 and 44 more)'
        in (report_of(tmp_path))
    )
