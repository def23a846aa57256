"""Fine-tuning a whole Mask R-CNN from detectors of other code, classes and window sizes."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from types import SimpleNamespace

import mmdet.models  # noqa: F401  # registers the detector
import pytest
import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from torch import nn

from swin_ext.checkpoint.matching import ADAPTATION
from swin_ext.engine import AdaptCheckpointHook, SwinExtRunner
from swin_ext.models.weights.recognition import SwinWeightsError
from toy_loop import ToyLoop

CONFIG = Path(__file__).parents[3] / 'configs' / 'mask_rcnn_swin-nano_cmr.py'
CLASSES = ('LV', 'Myo', 'RV')
WIDTH, WINDOW = 16, 4


def make_config(depths=(2, 1, 1, 2), window_size=WINDOW) -> Config:
    cfg = Config.fromfile(CONFIG)
    cfg.model.backbone.update(
        arch=dict(embed_dims=WIDTH, depths=depths, num_heads=(1, 1, 2, 2)), window_size=window_size
    )
    cfg.model.neck.update(in_channels=[WIDTH * 2**i for i in range(4)], out_channels=16)
    cfg.model.rpn_head.update(in_channels=16, feat_channels=16)
    roi_head = cfg.model.roi_head
    roi_head.bbox_roi_extractor.out_channels = roi_head.mask_roi_extractor.out_channels = 16
    roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=len(CLASSES))
    roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=len(CLASSES))
    return cfg


def make_detector(seed, **kwargs) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(make_config(**kwargs).model)
    generator = torch.Generator().manual_seed(seed)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
    return model


@pytest.fixture(scope='module')
def source() -> dict:
    """State dict of the detector to start from."""
    return make_detector(seed=1).state_dict()


@pytest.fixture(scope='module')
def target() -> nn.Module:
    """The detector to fine-tune; take a deep copy to load into it."""
    return make_detector(seed=2)


def fine_tuning(model, classes=CLASSES):
    loop = ToyLoop(classes)
    return SimpleNamespace(
        model=model,
        _train_loop=loop,
        train_loop=loop,
        _resume=False,
    )


def adapt(model, checkpoint, classes=CLASSES, **settings) -> dict:
    """State dict that the hook leaves in a copy of `checkpoint`."""
    return adapted(model, checkpoint, classes, **settings)['state_dict']


def adapted(model, checkpoint, classes=CLASSES, **settings) -> dict:
    checkpoint = copy.copy(checkpoint)
    runner = fine_tuning(model, classes)
    vars(runner).update(settings)
    AdaptCheckpointHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint


def account(checkpoint) -> str:
    """What the report on the loading will say of the hook's work."""
    return '\n'.join(checkpoint[ADAPTATION].notes) + '\n'


def assert_same(actual, expected):
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


# The neighbours (y, x) in the order in which Microsoft's PatchMerging concatenates them.
NEIGHBOURS = [(0, 0), (1, 0), (0, 1), (1, 1)]


def to_microsoft(state_dict) -> dict:
    """The detector as of Swin-Transformer-Object-Detection, which differs in the backbone."""
    microsoft = {}
    for name, tensor in state_dict.items():
        if not name.startswith('backbone.'):
            microsoft[name] = tensor
            continue
        if '.downsample.' in name:
            channels = tensor.shape[-1] // 4
            # Of nn.Unfold's channels, 4 c + 2 y + x, those that Microsoft's code has in turn.
            order = [4 * c + 2 * y + x for y, x in NEIGHBOURS for c in range(channels)]
            tensor = tensor[..., order]
        for ours, theirs in (
            ('projection', 'proj'),
            ('stages', 'layers'),
            ('attn.w_msa', 'attn'),
            ('ffn.layers.0.0', 'mlp.fc1'),
            ('ffn.layers.1', 'mlp.fc2'),
        ):
            name = re.sub(rf'\.{re.escape(ours)}\.', f'.{theirs}.', name)
        microsoft[name] = tensor
    return microsoft


@pytest.mark.parametrize('convert', [dict, to_microsoft])
@pytest.mark.parametrize('wrap', [lambda model: model, nn.DataParallel], ids=['plain', 'wrapped'])
def test_detector_of_the_same_size_is_taken_over(source, target, convert, wrap):
    model = copy.deepcopy(target)
    checkpoint = adapted(wrap(model), dict(state_dict=convert(source)))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert_same(model.state_dict(), source)
    origin = 'microsoft' if convert is to_microsoft else 'mmdet'
    assert f'Swin weights in {origin} format' in account(checkpoint)
    assert 're-initialised: 0' in account(checkpoint)
    assert 'unused from the file: 0\n' in account(checkpoint)


def load_in_runner(path, cfg, tmp_path, toy_cmr, monkeypatch) -> SwinExtRunner:
    """Do what the beginning of `Runner.train` does."""
    # These only take time: the one calls compilers, the other formats the config.
    monkeypatch.setattr(Runner, '_log_env', lambda runner, env_cfg: None)
    monkeypatch.setattr(Runner, 'dump_config', lambda runner: None)
    cfg.update(
        work_dir=str(tmp_path / 'run'),
        data_root=str(toy_cmr.root),
        load_from=str(path),
        custom_hooks=[dict(type='EMAHook'), dict(type='AdaptCheckpointHook')],
        vis_backends=[dict(type='LocalVisBackend')],
        experiment_name=tmp_path.name,
    )
    cfg.visualizer.update(vis_backends=cfg.vis_backends, name=tmp_path.name)
    runner = SwinExtRunner.from_cfg(cfg)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def logged(runner) -> str:
    return next(Path(runner.log_dir).glob('*.log')).read_text()


def test_in_a_runner_with_averaged_weights(source, toy_cmr, tmp_path, monkeypatch):
    path = tmp_path / 'microsoft.pth'
    torch.save(dict(state_dict=to_microsoft(source), meta=dict(CLASSES=CLASSES)), path)
    runner = load_in_runner(path, make_config(), tmp_path, toy_cmr, monkeypatch)
    assert_same(runner.model.state_dict(), source)
    (averaged,) = (hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
    assert_same(averaged.module.state_dict(), source)


def test_one_report_says_what_was_loaded(source, toy_cmr, tmp_path, monkeypatch):
    state_dict = to_microsoft(source)
    del state_dict['roi_head.mask_head.conv_logits.bias']
    state_dict['roi_head.mask_head.conv_logits.weight'] = torch.zeros(5, 16, 1, 1)
    path = tmp_path / 'microsoft.pth'
    torch.save(dict(state_dict=state_dict, meta=dict(CLASSES=('RV', 'LV', 'cat'))), path)
    log = logged(load_in_runner(path, make_config(), tmp_path, toy_cmr, monkeypatch))
    assert log.count('Load checkpoint from') == log.count('Swin weights in microsoft format') == 1
    report = log[log.index('Load checkpoint from') :]
    num_all = sum(not name.endswith('relative_position_index') for name in source)
    assert f'{num_all - 2} of the {num_all} tensors of the model loaded; 0 re-init' in report
    assert '1 missing in the file (roi_head.mask_head.conv_logits.bias); 0 in the file' in report
    assert (
        '1 re-initialised for their other classes (roi_head.mask_head.conv_logits.weight: it has '
        '5 rows, but 3 classes of the checkpoint ask for 3)'
    ) in report
    assert 'unused from the file: 0' in report
    assert "2 classes kept ['LV', 'RV'], 1 re-initialised ['Myo'], 1 of the check" in report


V2 = dict(version=2, embed_dims=WIDTH, depths=(2, 1, 1, 2), num_heads=(1, 1, 2, 2))


@pytest.mark.parametrize('window', [4, 7])
@pytest.mark.parametrize('stored', [True, False])
def test_v2_detector(toy_cmr, tmp_path, monkeypatch, window, stored):
    """Constants of V2 follow from the window: a file may hold them or not, of any window."""
    cfg = make_config(window_size=4)
    cfg.model.backbone.update(arch=V2)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(copy.deepcopy(cfg).model)
    state_dict = dict(model.state_dict())
    if stored:
        state_dict.update(
            (name, t) for name, t in model.named_buffers() if name.startswith('backbone.')
        )
    torch.save(dict(state_dict=state_dict, meta=dict(CLASSES=CLASSES)), tmp_path / 'v2.pth')
    cfg.model.backbone.window_size = window
    runner = load_in_runner(tmp_path / 'v2.pth', cfg, tmp_path, toy_cmr, monkeypatch)
    assert_same(runner.model.state_dict(), model.state_dict())
    assert 'INFO - Load checkpoint from' in logged(runner)


@pytest.mark.parametrize('index', [None, 'kept'])
def test_v1_without_relative_position_index(source, toy_cmr, tmp_path, monkeypatch, index):
    without = {
        name: t for name, t in source.items() if index or not name.endswith('position_index')
    }
    torch.save(dict(state_dict=without, meta=dict(CLASSES=CLASSES)), tmp_path / 'v1.pth')
    runner = load_in_runner(tmp_path / 'v1.pth', make_config(), tmp_path, toy_cmr, monkeypatch)
    assert_same(runner.model.state_dict(), source)


HEADS = {
    'roi_head.bbox_head.fc_cls': 1,
    'roi_head.bbox_head.fc_reg': 4,
    'roi_head.mask_head.conv_logits': 1,
}  # rows per class


@pytest.mark.parametrize(
    'meta',
    [
        dict(dataset_meta=dict(classes=('RV', 'LV', 'cat'))),
        dict(dataset_meta=dict(CLASSES=('RV', 'LV', 'cat'))),  # release candidates of mmdet 3
        dict(CLASSES=('RV', 'LV', 'cat')),  # mmdet 2
    ],
    ids=['mmdet-3', 'mmdet-3rc', 'mmdet-2'],
)
def test_rows_of_shared_classes_are_kept(source, target, meta):
    model = copy.deepcopy(target)
    checkpoint = adapted(model, dict(state_dict=source, meta=meta))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert "2 classes kept ['LV', 'RV'], 1 re-initialised ['Myo'], 1 of the" in account(checkpoint)
    loaded = model.state_dict()
    for name, tensor in source.items():
        head = name.rsplit('.', 1)[0]
        if head not in HEADS:
            assert torch.equal(loaded[name], tensor), name
            continue
        rows = HEADS[head]
        old, new, own = (t.split(rows) for t in (tensor, loaded[name], target.state_dict()[name]))
        assert torch.equal(new[0], old[1]), name  # LV
        assert torch.equal(new[2], old[0]), name  # RV
        assert len(new) == len(old)
        assert torch.equal(new[3], old[3]) if head.endswith('fc_cls') else len(new) == 3
        assert not any(torch.equal(new[1], rows_of_old) for rows_of_old in old), name  # Myo
        assert torch.equal(new[1], own[1]), name  # as the model was initialised


def test_other_number_of_classes(source, target):
    model = copy.deepcopy(target)
    names = ('person', 'RV')
    loaded = dict(source)
    for head, rows in HEADS.items():
        keep = rows * 2 + head.endswith('fc_cls')
        for leaf in ('weight', 'bias'):
            loaded[f'{head}.{leaf}'] = source[f'{head}.{leaf}'][:keep]
    meta = dict(dataset_meta=dict(classes=names))
    model.load_state_dict(adapt(model, dict(state_dict=loaded, meta=meta)), strict=True)
    for head, rows in HEADS.items():
        actual = model.state_dict()[f'{head}.weight']
        assert torch.equal(actual[2 * rows : 3 * rows], source[f'{head}.weight'][rows : 2 * rows])
    assert torch.equal(
        model.roi_head.bbox_head.fc_cls.weight[3], source['roi_head.bbox_head.fc_cls.weight'][2]
    )  # the background


def test_heads_that_the_file_has_not_are_reported(source, target):
    backbone = {name: t for name, t in source.items() if name.startswith('backbone.')}
    meta = dict(CLASSES=('cat', 'dog'))
    checkpoint = adapted(target, dict(state_dict=backbone, meta=meta))
    assert_same(checkpoint['state_dict'], backbone)
    assert 'whose class-dependent layers, if any, are not those of the' in account(checkpoint)


def test_rows_that_do_not_fit_the_class_list_are_reinitialised(source, target):
    meta = dict(CLASSES=('cat', 'dog'))  # but the heads are of three
    checkpoint = adapted(target, dict(state_dict=source, meta=meta))
    layers = {f'{head}.{leaf}' for head in HEADS for leaf in ('weight', 'bias')}
    assert source.keys() - checkpoint['state_dict'].keys() == layers
    assert checkpoint[ADAPTATION].reinitialised.keys() == layers


def test_a_checkpoint_without_class_list_is_taken_in_order_and_said_so(source, target):
    checkpoint = adapted(target, dict(state_dict=source))
    assert_same(checkpoint['state_dict'], source)
    assert 'The checkpoint does not name its classes' in account(checkpoint)
    assert "in its order ['LV', 'Myo', 'RV']" in account(checkpoint)


@pytest.mark.parametrize('window', [2, 7])
def test_other_window_size(source, window):
    model = make_detector(seed=3, window_size=window)
    own_buffers = {name: t.clone() for name, t in model.named_buffers()}
    checkpoint = adapted(model, dict(state_dict=source))
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    assert 'resized: 6\n' in account(checkpoint)
    loaded = model.state_dict()
    for name, tensor in source.items():
        if name in own_buffers:
            assert torch.equal(loaded[name], own_buffers[name]), name
        elif not name.endswith('relative_position_bias_table'):
            assert torch.equal(loaded[name], tensor), name
        else:
            old, new = 2 * WINDOW - 1, 2 * window - 1
            image = tensor.T.reshape(1, -1, old, old)
            expected = F.interpolate(image, (new, new), mode='bicubic').flatten(2)[0].T
            torch.testing.assert_close(loaded[name], expected)


@pytest.mark.parametrize('depths', [(2, 1, 1, 1), (2, 1, 2, 2)])  # the file has more, or fewer
def test_other_architecture_is_refused(source, depths):
    model = make_detector(seed=3, depths=depths)
    with pytest.raises(
        SwinWeightsError,
        match=r'do not fit the model.*'
        rf"'depths': \(2, 1, 1, 2\).*{re.escape(str(depths))}",
    ):
        adapt(model, dict(state_dict=source))


@pytest.mark.parametrize(
    'settings',
    [dict(_train_loop=dict()), dict(_train_loop=None), dict(_resume=True)],
    ids=['test', 'val', 'resume'],
)
def test_what_is_tested_or_resumed_is_left_alone(source, target, settings):
    state_dict = to_microsoft(source)
    checkpoint = dict(state_dict=state_dict, meta=dict(CLASSES=('cat', 'dog', 'cow')))
    before = dict(state_dict)
    assert adapt(target, checkpoint, **settings) is state_dict
    assert_same(state_dict, before)
