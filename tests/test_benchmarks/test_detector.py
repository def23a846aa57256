"""Detectors that are compared do the same work, and the parts of a step are the whole of it."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config

import swin_ext.registration  # noqa: F401
from swin_ext.benchmarks import backbone_models, detector, detector_models, detector_switches
from swin_ext.benchmarks.backbone_models import UnequalWorkError
from swin_ext.benchmarks.detector_models import build, make_batch
from swin_ext.models.swin import ARCHITECTURES
from toy_mask_rcnn import model_config

MICRO = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


@pytest.fixture(autouse=True)
def few_samples(monkeypatch, tmp_path):
    """The same model with fewer proposals and samples."""
    cfg = Config.fromfile(detector_models.DETECTOR_CONFIG)
    cfg.merge_from_dict(
        {
            'model.train_cfg.rpn.sampler.num': 16,
            'model.train_cfg.rpn_proposal': dict(nms_pre=50, max_per_img=20),
            'model.train_cfg.rcnn.sampler.num': 8,
            'model.test_cfg.rpn': dict(nms_pre=50, max_per_img=20),
            'model.test_cfg.rcnn.max_per_img': 5,
        }
    )
    path = tmp_path / 'few.py'
    cfg.dump(path)
    monkeypatch.setattr(detector_models, 'DETECTOR_CONFIG', path)
    monkeypatch.setattr('swin_ext.benchmarks.backbone_models.DETECTOR_CONFIG', path)
    monkeypatch.setitem(ARCHITECTURES, 'tiny', MICRO)


def test_all_do_the_same_work():
    torch.manual_seed(0)
    pytest.importorskip('torchvision')
    detectors = build(('mmdet', 'torchvision'), MICRO, torch.device('cpu'))
    batch = make_batch(detectors['swin_ext'].model, 2, (64, 96))
    maps, found = {}, {}
    for name, each in detectors.items():
        each.model.eval()
        watched = each.parts[0].register_forward_hook(
            lambda _, inputs, out, name=name: maps.update(
                {name: (tuple(inputs[0].shape), [tuple(x.shape) for x in out])}
            )
        )
        with torch.no_grad():
            found[name] = each.predict(batch)
        watched.remove()
    assert maps['swin_ext'] == maps['mmdet'] == maps['torchvision']
    assert maps['swin_ext'][0] == (2, 3, 64, 96)
    # All found as many instances as they may, and masks are of the images.
    for ours, theirs, others in zip(*found.values()):
        assert ours.pred_instances.masks.shape == (5, 64, 96)
        assert others['masks'].shape == (5, 1, 64, 96)
        torch.testing.assert_close(
            ours.pred_instances.scores, theirs.pred_instances.scores, atol=1e-5, rtol=0
        )
    losses = {}
    for name in ('swin_ext', 'mmdet'):
        detectors[name].model.train()
        torch.manual_seed(0)
        losses[name] = float(detectors[name].loss(batch))
    assert losses['swin_ext'] == pytest.approx(losses['mmdet'], rel=1e-4)
    truth, targets = batch['mmdet']['data_samples'], batch['torchvision'][1]
    for sample, target in zip(truth, targets):
        assert torch.equal(sample.gt_instances.labels + 1, target['labels'])
        assert torch.equal(sample.gt_instances.bboxes, target['boxes'])


def test_the_tables(tmp_path, capsys):
    arguments = '--arch tiny --sizes 64 --batch 1 --repeats 2 --peers mmdet --device cpu --json'
    report = detector.main([*arguments.split(), str(tmp_path / 'figures.json')])
    modes = {case['mode']: case['models'] for case in report['cases']}
    forward = {'backbone', 'neck', 'RPN', 'RoI heads'}
    for mode, more in (('train', {'backward', 'optimizer'}), ('inference', set())):
        for result in modes[mode].values():
            assert result['parts_ms'].keys() == forward | more | {'rest'}
            assert all(part > 0 for part in result['parts_ms'].values())
            assert len(result['times_s']) == 2
    told = capsys.readouterr().out
    assert told.count('| 64x64 | fp32 | train |') == 4  # of two models in two tables
    assert (tmp_path / 'figures.json').stat().st_size


def test_other_work_is_refused(monkeypatch):
    pytest.importorskip('torchvision')
    monkeypatch.setattr(detector_models, 'NUM_CLASSES', 1000)
    with pytest.raises(UnequalWorkError, match='torchvision has .* parameters'):
        build(('torchvision',), MICRO, torch.device('cpu'))


def test_wrong_arguments(capsys):
    for wrong in (
        '--device cuda',
        '--device cpu --precisions fp16',
        '--sizes 0x3',
        '--device cpu --config some.py',
        '--device cpu --switches --config some.py',
    ):
        if 'cuda' in wrong and torch.cuda.is_available():
            continue
        with pytest.raises(SystemExit):
            detector.parse_args(wrong.split())
        assert wrong.split()[-2] in capsys.readouterr().err


def small_mask_rcnn():
    return model_config(roi_head__bbox_head__num_classes=80, roi_head__mask_head__num_classes=80)


def test_switches_are_compared_with_ours_without_them(tmp_path, capsys):
    path = tmp_path / 'small.py'
    Config(dict(model=small_mask_rcnn())).dump(path)
    arguments = f'--config {path} --sizes 64 --batch 1 --repeats 1 --device cpu --clock cpu'
    report = detector.main([*arguments.split(), '--switches', 'fused', 'compiled'])
    assert report['settings']['arch'] == 'small'
    (case,) = report['cases']
    assert case['mode'] == 'step' and report['settings']['clock'] == 'cpu'
    assert list(case['models']) == ['swin_ext', 'swin_ext fused']
    assert report['skipped'] == {'compiled': 'compile_backbone leaves a backbone on a CPU as it is'}
    for result in case['models'].values():
        assert len(result['times_s']) == 1 and 'optimizer' in result['parts_ms']
    assert capsys.readouterr().out.count('| 64x64 | fp32 | step | swin_ext fused |') == 2


def test_switches_change_no_number():
    torch.manual_seed(0)
    switches = ('channels_last', 'pinned', 'device_masks')
    variants = detector_switches.build_variants(switches, small_mask_rcnn(), torch.device('cpu'))
    of_arch = backbone_models.detector_config(MICRO)
    assert of_arch.backbone.arch == MICRO and of_arch.neck.in_channels == [8, 16, 32, 64]
    assert [on for _, on in variants.values()][1:] == [*({each} for each in switches), {*switches}]
    raw, losses, kinds = backbone_models.make_raw_batch(1, (64, 96)), {}, {}
    for name in ('swin_ext', 'swin_ext all'):
        each, on = variants[name]
        on = on | {'fused', 'late_figures'} if on else on
        parse = each.model.parse_losses

        def kept(found, name=name, parse=parse):
            losses[name] = float(parse(found)[0].detach())
            return parse(found)

        each.model.parse_losses = kept
        detector_switches.make_training_step(each, on, raw, nullcontext)()
        kinds[name] = (
            type(each.model.roi_head.mask_head).__name__,
            type(each.model.data_preprocessor).__name__,
            each.model.neck.fpn_convs[0].conv.weight.is_contiguous(),
        )
    assert losses['swin_ext all'] == pytest.approx(losses['swin_ext'], rel=1e-4)
    assert kinds['swin_ext'] == ('FCNMaskHead', 'DetDataPreprocessor', True)
    assert kinds['swin_ext all'] == ('DeviceTargetMaskHead', 'AsyncDetDataPreprocessor', False)
