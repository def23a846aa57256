"""One file is a model: mmdet's ways to use it give what `mim test` gives."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmengine.config import Config
from mmengine.hooks import Hook
from torchvision.ops import box_iou

from swin_ext.checkpoint.model_file import write_model
from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.weight_files import WeightFileNotFoundError
from swin_ext.images.reading import read_frame
from swin_ext.inference import load_model
from swin_ext.inference.model import ModelError


class Keep(Hook):
    def __init__(self):
        self.found = {}

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.found.update({sample.img_path: sample.pred_instances for sample in outputs})


@pytest.fixture(scope='module')
def tested(tiny_model):
    """What `mim test` predicts for each image, with the config of the training."""
    runner = tiny_model.runner('test', load_from=str(tiny_model.path))
    keep = Keep()
    runner.register_hook(keep)
    runner.test()
    assert len(keep.found) == 8
    assert all(set(found.labels.tolist()) == {0, 1, 2} for found in keep.found.values())
    return keep.found


def assert_same(found, expected):
    assert torch.equal(found.labels, expected.labels)
    assert torch.equal(found.scores, expected.scores)
    assert torch.equal(found.bboxes, expected.bboxes)
    assert torch.equal(torch.as_tensor(found.masks), torch.as_tensor(expected.masks))


def config_of(path) -> Config:
    """As a user of mmdet gets it, who knows nothing of this package."""
    return Config.fromstring(load_checkpoint_file(path)['meta']['cfg'], file_format='.py')


def test_det_inferencer_from_the_file_alone(tiny_model, tested):
    inferencer = DetInferencer(weights=str(tiny_model.path), device='cpu', show_progress=False)
    assert tuple(inferencer.model.dataset_meta['classes']) == ('LV', 'Myo', 'RV')
    outputs = inferencer(list(tested), return_datasamples=True, no_save_vis=True)
    for output, expected in zip(outputs['predictions'], tested.values()):
        assert_same(output.pred_instances, expected)


def test_det_inferencer_where_nothing_else_was_imported(tiny_model):
    """Its `torch.load` is PyTorch's own then, and no type of this package is registered."""
    image = next(tiny_model.data.root.glob('images/*.png'))
    program = (
        'from mmdet.apis import DetInferencer\n'
        f'found = DetInferencer(weights={str(tiny_model.path)!r}, device="cpu")({str(image)!r})\n'
        'print("number", len(found["predictions"][0]["scores"]))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split('number')[-1]) >= 3  # structures of each image


def test_init_detector_with_the_config_of_the_file(tiny_model, tested):
    detector = init_detector(config_of(tiny_model.path), str(tiny_model.path), device='cpu')
    for path, expected in tested.items():
        assert_same(inference_detector(detector, path).pred_instances, expected)


@pytest.mark.parametrize('which', ['path', 'best'])
def test_load_model(tiny_model, tested, which):
    model = load_model(getattr(tiny_model, which), device='cpu')
    assert model.classes == ('LV', 'Myo', 'RV')
    frames = [read_frame(path) for path in tested]
    for frame, expected in zip(frames, tested.values()):
        (found,) = model.predict([frame])
        assert np.array_equal(found.labels, expected.labels)
        assert np.array_equal(found.scores, expected.scores)
        assert np.array_equal(found.boxes, expected.bboxes)
        assert np.array_equal(found.masks, expected.masks)
        assert (found.labels.dtype, found.scores.dtype) == (np.int64, np.float32)
        assert (found.boxes.dtype, found.masks.dtype) == (np.float32, bool)


def test_batches_of_mixed_sizes_give_what_single_images_give(tiny_model, tested):
    model = load_model(tiny_model.path, device='cpu')
    frames = [read_frame(path) for path in tested]
    frames[1], frames[4] = frames[1].T, frames[4][:40]
    together = model.predict(frames)
    for frame, found in zip(frames, together):
        (alone,) = model.predict([frame])
        assert found.masks.shape[1:] == frame.shape
        assert np.array_equal(found.labels, alone.labels)
        # Kernels of other batch sizes add in another order.
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)


def test_thresholds_are_those_of_the_whole_result(tiny_model, tested):
    """Leaving low scores out early leaves the others as they are."""
    frame = read_frame(next(iter(tested)))
    (everything,) = load_model(tiny_model.path, device='cpu').predict([frame])
    threshold = float(np.median(everything.scores))
    model = load_model(tiny_model.path, device='cpu', score_threshold=threshold)
    assert model.identity.score_threshold == threshold
    (found,) = model.predict([frame])
    kept = everything.scores > threshold
    assert 0 < kept.sum() < len(kept)
    assert np.array_equal(found.scores[: kept.sum()], everything.scores[kept])
    assert np.array_equal(found.masks[: kept.sum()], everything.masks[kept])
    numbers = []
    for most in (0.1, 0.95):
        model = load_model(tiny_model.path, device='cpu', nms_threshold=most)
        (some,) = model.predict([frame])
        numbers.append(len(some.labels))
        for label in np.unique(some.labels):
            boxes = torch.tensor(some.boxes[some.labels == label])
            assert (box_iou(boxes, boxes).fill_diagonal_(0) <= most).all()
    assert numbers[0] <= len(everything.labels) < numbers[1]


@pytest.mark.parametrize('precision, tolerance', [('bf16', 0.03), ('fp16', 0.004)])
def test_lower_precision_finds_nearly_the_same(tiny_model, tested, precision, tolerance):
    """Within some roundings of the features: 2 ** -8 and 2 ** -11 of their size each."""
    frame = read_frame(next(iter(tested)))
    settings = dict(device='cpu', score_threshold=0.5)
    (exact,) = load_model(tiny_model.path, **settings).predict([frame])
    (found,) = load_model(tiny_model.path, precision=precision, **settings).predict([frame])
    assert np.array_equal(found.labels, exact.labels) and len(exact.labels) > 0
    np.testing.assert_allclose(found.scores, exact.scores, atol=tolerance)
    # Among boxes of one structure whose scores rounding makes equal, another may be the first:
    # it overlaps with this one by more than the threshold of NMS, or both were kept.
    overlaps = box_iou(torch.tensor(found.boxes), torch.tensor(exact.boxes)).diagonal()
    assert (overlaps > 0.5).all()
    assert not np.array_equal(found.scores, exact.scores)
    assert found.scores.dtype == np.float32


# What does not fit


@pytest.fixture
def content(tiny_model):
    return copy.deepcopy(load_checkpoint_file(tiny_model.path))


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c: c['state_dict'].popitem(), '1 missing in the file'),
        (lambda c: c['state_dict'].update(other=torch.ones(1)), '1 in the file alone'),
        (
            lambda c: c['meta'].update(
                cfg=c['meta']['cfg'].replace('num_classes=3', 'num_classes=80')
            ),
            r'6 re-initialised for their other shape \(roi_head',
        ),
        (lambda c: c['meta']['dataset_meta'].update(classes=['LV', 'Myo']), 'names 2: LV, Myo'),
        (lambda c: c['meta']['dataset_meta'].clear(), 'names no classes'),
        (lambda c: c['meta'].pop('cfg'), 'cannot say what its weights are of'),
        (lambda c: c['meta'].update(cfg='model = open("x")'), 'line 1 calls something'),
        (lambda c: c.pop('meta'), 'has weights, but not the config'),
        (lambda c: c['meta']['preprocessing'].update(version=99), 'version 99'),
    ],
)
def test_a_file_that_does_not_fit_is_refused(content, tmp_path, change, message):
    change(content)
    torch.save(content, tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / 'model.pth')


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(device='cuda:99'), 'PyTorch sees'),
        (dict(device='toaster'), "device='toaster' is none"),
        (dict(precision='fp8'), "precision='fp8' must be one of"),
        (dict(score_threshold=1.5), 'score_threshold=1.5 must be from 0 to 1'),
        (dict(nms_threshold=-1), 'nms_threshold=-1 must be from 0 to 1'),
    ],
)
def test_impossible_settings(tiny_model, changes, message):
    with pytest.raises(ModelError, match=message):
        load_model(tiny_model.path, **changes)


def test_an_absent_file():
    with pytest.raises(WeightFileNotFoundError, match='nowhere.pth'):
        load_model('nowhere.pth')


def test_the_config_of_the_file_has_no_paths(tiny_model):
    cfg = load_checkpoint_file(tiny_model.path)['meta']['cfg']
    assert str(tiny_model.root) not in cfg and 'optim_wrapper' not in cfg


def test_a_packed_model_finds_the_same(tiny_model, tested, tmp_path):
    """With weights that float16 holds exactly, a file of float16 changes nothing."""
    content = load_checkpoint_file(tiny_model.path)
    halved = {
        key: tensor.half().float() if tensor.is_floating_point() else tensor
        for key, tensor in content['state_dict'].items()
    }
    torch.save(dict(content, state_dict=halved), tmp_path / 'halved.pth')
    packed = write_model(tmp_path / 'halved.pth', tmp_path / 'packed.safetensors')
    images = [read_frame(path) for path in tested]
    whole = load_model(tmp_path / 'halved.pth', device='cpu').predict(images)
    for found, expected in zip(load_model(packed, device='cpu').predict(images), whole):
        assert len(found.scores) > 0
        for name in ('labels', 'scores', 'boxes', 'masks'):
            assert np.array_equal(getattr(found, name), getattr(expected, name))
