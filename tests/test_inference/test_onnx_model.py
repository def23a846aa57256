"""A model in ONNX: the same instances as mmdet's, for any size and number of images."""

from __future__ import annotations

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.utils import digit_version

from load_tool import load_tool
from swin_ext.images.reading import read_frame
from swin_ext.inference import load_model
from swin_ext.inference.model import ModelError
from swin_ext.inference.onnx_model import resize

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxscript')
pytest.importorskip('onnxruntime')
pytestmark = pytest.mark.skipif(
    digit_version(torch.__version__) < digit_version('2.9'),
    reason='the exporter follows counts that depend on the data from PyTorch 2.9 on',
)


@pytest.fixture(scope='module')
def exported(tiny_model, tmp_path_factory):
    """As the tool writes it."""
    path = tmp_path_factory.mktemp('onnx') / 'tiny.onnx'
    load_tool('export_onnx').main([str(tiny_model.path), '--out', str(path)])
    return path


@pytest.fixture(scope='module')
def images(tiny_model):
    """Of five sizes; of some, one map is one window, or has padding, or one row."""
    real = [read_frame(path) for path in sorted(tiny_model.data.root.glob('images/*.png'))]
    noise = np.random.RandomState(0).randint(0, 255, (100, 100)).astype(np.float32)
    return [
        *real,
        real[0].T,
        np.pad(real[1], ((30, 0), (0, 9)), mode='reflect'),
        real[2][:, :25],
        real[3][:15],
        noise,
    ]


def test_it_finds_what_mmdet_finds(tiny_model, exported, images):
    ours, theirs = load_model(exported), load_model(tiny_model.path, device='cpu')
    assert ours.classes == theirs.classes and ours.preprocessing == theirs.preprocessing
    assert ours.identity.figures == theirs.identity.figures
    assert ours.identity.score_threshold == theirs.identity.score_threshold
    number = 0
    for found, expected in zip(ours.predict(images), theirs.predict(images)):
        assert np.array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
        assert found.masks.shape == expected.masks.shape
        # A pixel may have a probability of one half but for rounding.
        assert (found.masks != expected.masks).sum() <= 1e-4 * expected.masks.sum() + 1
        assert (found.labels.dtype, found.boxes.dtype) == (np.int64, np.float32)
        number += len(found.labels)
    assert number > 50


@pytest.mark.parametrize('thresholds', [dict(score_threshold=0.2), dict(nms_threshold=0.1)])
def test_thresholds(tiny_model, exported, images, thresholds):
    (found,) = load_model(exported, **thresholds).predict(images[:1])
    (expected,) = load_model(tiny_model.path, device='cpu', **thresholds).predict(images[:1])
    assert 0 < len(found.labels) == len(expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)


def test_an_image_without_anything(exported, images):
    (found,) = load_model(exported, score_threshold=1.0).predict(images[:1])
    assert found.masks.shape == (0, *images[0].shape) and len(found.scores) == 0


def test_neither_torch_nor_mmdet_is_imported(exported):
    program = (
        'import os, sys, numpy\n'
        "os.environ['SWIN_EXT_LIGHT'] = '1'\n"
        'from swin_ext.inference import load_model\n'
        f'load_model({str(exported)!r}).predict([numpy.zeros((50, 60), numpy.float32)])\n'
        "print([name for name in ('torch', 'mmdet', 'mmengine', 'mmcv') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout.strip() == '[]', done.stderr


@pytest.mark.parametrize('shape', [(48, 64), (64, 48), (97, 33), (500, 512)])
def test_resizing_is_that_of_mmcv(shape):
    import mmcv

    image = np.random.RandomState(0).randint(0, 255, (*shape, 3)).astype(np.uint8)
    assert np.array_equal(resize(image, (192, 160)), mmcv.imrescale(image, (192, 160)))


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(precision='bf16'), "precision='bf16' is not in it"),
        (dict(device='cuda:0'), 'this onnxruntime has only'),
        (dict(device='tpu'), "device='tpu' is none"),
        (dict(nms_threshold=2), 'nms_threshold=2 must be from 0 to 1'),
    ],
)
def test_impossible_settings(exported, settings, message):
    with pytest.raises(ModelError, match=message):
        load_model(exported, **settings)


def test_files_that_are_no_model(exported, tmp_path):
    with pytest.raises(ModelError, match='There is no model file'):
        load_model(tmp_path / 'nowhere.onnx')
    (tmp_path / 'damaged.onnx').write_bytes(exported.read_bytes()[:2000])
    with pytest.raises(ModelError, match='cannot be read as an ONNX model'):
        load_model(tmp_path / 'damaged.onnx')
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / 'other.onnx')
    with pytest.raises(ModelError, match='no model that tools/export_onnx.py wrote'):
        load_model(tmp_path / 'other.onnx')


def test_a_detector_of_another_kind_is_refused(tiny_model, tmp_path):
    from swin_ext.checkpoint.safe_reading import load_checkpoint_file
    from swin_ext.inference.export.onnx_file import export_onnx

    shutil.copy(tiny_model.path, tmp_path / 'soft.pth')
    content = load_checkpoint_file(tmp_path / 'soft.pth')
    text = content['meta']['cfg']
    content['meta']['cfg'] = text.replace("type='nms'", "type='soft_nms'")
    assert content['meta']['cfg'] != text
    torch.save(content, tmp_path / 'soft.pth')
    with pytest.raises(ModelError, match="soft.pth: nms.type='soft_nms' cannot be exported"):
        export_onnx(tmp_path / 'soft.pth', tmp_path / 'soft.onnx')
    with pytest.raises(ModelError, match='must be named .onnx'):
        export_onnx(tiny_model.path, tmp_path / 'model.bin')
    content['meta']['cfg'] = text.replace('keep_ratio=True', 'keep_ratio=False')
    torch.save(content, tmp_path / 'soft.pth')
    with pytest.raises(ModelError, match='without keep_ratio=True cannot be exported'):
        export_onnx(tmp_path / 'soft.pth', tmp_path / 'soft.onnx')
