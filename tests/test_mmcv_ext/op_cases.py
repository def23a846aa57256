"""Seeded runs of ``mmcv.ops``, by make_golden.py with compiled mmcv and by the tests with ours.

Each case is a function without arguments that returns named arrays: outputs, and gradients of the
sum of the outputs weighted by seeded noise. Inputs come from ``numpy.random.RandomState``, whose
streams are frozen. The random RoIs and sampling offsets reach beyond the image on every side.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from mmcv.ops import batched_nms, deform_conv2d, nms, nms_match, soft_nms
from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
from mmcv.ops.roi_align import roi_align

GOLDEN = Path(__file__).with_name('golden_mmcv_2.1.0.npz')


def with_gradients(run, named_inputs: dict[str, torch.Tensor], seed: int) -> dict[str, np.ndarray]:
    """Output of ``run(**inputs)`` and gradient by every floating-point input."""
    inputs = {name: tensor.requires_grad_(name != 'rois') for name, tensor in named_inputs.items()}
    output = run(**inputs)
    noise = torch.from_numpy(np.random.RandomState(seed).randn(*output.shape)).to(output)
    output.backward(noise)
    results = {'output': output.detach().numpy()}
    for name, tensor in inputs.items():
        if tensor.requires_grad:
            results[f'grad_{name}'] = tensor.grad.numpy()
    return results


def random(rng: np.random.RandomState, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.randn(*shape).astype(np.float32))


def random_boxes(seed: int, count: int, equal_scores: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Crowded boxes, some without area, with scores that are all different or often equal."""
    rng = np.random.RandomState(seed)
    corner, extent = rng.rand(count, 2) * 40, rng.rand(count, 2) * 20
    extent[::7] = 0
    boxes = np.concatenate([corner, corner + extent], axis=1)
    scores = rng.randint(1, 20, count) / 20 if equal_scores else rng.permutation(count) / count
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(scores.astype(np.float32))


def run_nms(count, **settings):
    # Compiled mmcv sorts equal scores in an order that depends on the processor: none here.
    dets, keep = nms(*random_boxes(count, count, equal_scores=False), **settings)
    return {'dets': dets.numpy(), 'keep': keep.numpy()}


def run_at_threshold(op, offset):
    # IoU exactly 0.6: the float 0.6f is larger than the double 0.6.
    boxes = np.array(
        [[0, 0, 10 - offset, 10 - offset], [0, 0, 10 - offset, 6 - offset]], np.float32
    )
    scores = np.array([0.9, 0.8], np.float32)
    if op is nms_match:
        return {
            'sizes': np.array(
                [
                    len(group)
                    for group in nms_match(np.concatenate([boxes, scores[:, None]], axis=1), 0.6)
                ]
            )
        }
    dets, keep = op(boxes, scores, iou_threshold=0.6, offset=offset)
    return {'dets': dets, 'keep': keep}


def run_soft_nms(count, **settings):
    dets, keep = soft_nms(*random_boxes(count, count, equal_scores=True), **settings)
    return {'dets': dets.numpy(), 'keep': keep.numpy()}


def run_batched_nms(nms_cfg, class_agnostic=False):
    boxes, scores = random_boxes(5, 60, equal_scores=False)
    labels = torch.from_numpy(np.random.RandomState(6).randint(0, 3, 60))
    dets, keep = batched_nms(boxes, scores, labels, nms_cfg, class_agnostic=class_agnostic)
    return {'dets': dets.numpy(), 'keep': keep.numpy()}


def run_nms_match(count, iou_threshold):
    boxes, scores = random_boxes(count, count, equal_scores=False)
    groups = nms_match(torch.cat([boxes, scores[:, None]], dim=1), iou_threshold)
    return {
        'sizes': np.array([len(group) for group in groups]),
        'indices': np.concatenate([group.numpy() for group in groups]),
    }


def run_roi_align(
    pool_mode, aligned, sampling_ratio, output_size=(3, 2), spatial_scale=0.5, count=8
):
    rng = np.random.RandomState(11)
    features = random(rng, 2, 3, 9, 7)  # of an image of 18 x 14 pixels
    corner, extent = rng.rand(count, 2) * 24 - 6, rng.rand(count, 2) * 16
    rois = np.concatenate([rng.randint(0, 2, (count, 1)), corner, corner + extent], axis=1)
    if count:
        rois[0, 1:] = [3, 4, 3, 4]  # no area
        rois[1, 1:] = [-4, -4, 30, 30]  # larger than the image
        rois[2, 1:] = [40, 40, 50, 50]  # outside of it
        rois[3, 1:] = [2, 2, 10, 10]  # samples at pixel centres and borders

    def run(input, rois):
        return roi_align(
            input, rois, output_size, spatial_scale, sampling_ratio, pool_mode, aligned
        )

    return with_gradients(
        run, {'input': features, 'rois': torch.from_numpy(rois.astype(np.float32))}, seed=12
    )


def run_deform_conv(
    modulated,
    groups=1,
    deform_groups=1,
    stride=(1, 1),
    padding=(1, 1),
    dilation=(1, 1),
    kernel=(3, 3),
    batch=2,
    bias=True,
    im2col_step=32,
):
    rng = np.random.RandomState(21)
    in_channels, out_channels, height, width = 4, 6, 7, 6
    weight = random(rng, out_channels, in_channels // groups, *kernel)
    out = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, k, s, p, d in zip((height, width), kernel, stride, padding, dilation)
    ]
    points = deform_groups * kernel[0] * kernel[1]
    inputs = {
        'input': random(rng, batch, in_channels, height, width),
        'offset': 2 * random(rng, batch, 2 * points, *out),
    }
    if not modulated:
        inputs['weight'] = weight

        def run(input, offset, weight):
            return deform_conv2d(
                input,
                offset,
                weight,
                stride,
                padding,
                dilation,
                groups,
                deform_groups,
                False,
                im2col_step,
            )

        return with_gradients(run, inputs, seed=22)

    inputs['mask'] = random(rng, batch, points, *out).sigmoid()
    inputs['weight'] = weight
    if bias:
        inputs['bias'] = random(rng, out_channels)

    def run(input, offset, mask, weight, bias=None):
        return modulated_deform_conv2d(
            input, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups
        )

    return with_gradients(run, inputs, seed=22)


def case_name(op: str, **settings) -> str:
    return '-'.join([op, *(f'{name}={value}' for name, value in settings.items())])


CASES = {}
for settings in [
    *(
        dict(count=70, iou_threshold=threshold, offset=offset)
        for threshold, offset in product((0.1, 0.5), (0, 1))
    ),
    dict(count=0, iou_threshold=0.5),
    dict(count=1, iou_threshold=0.5),
    dict(count=70, iou_threshold=0.5, score_threshold=0.4),
    dict(count=70, iou_threshold=0.5, max_num=9),
    dict(count=70, iou_threshold=0.3, score_threshold=0.2, max_num=9, offset=1),
]:
    CASES[case_name('nms', **settings)] = partial(run_nms, **settings)
for op, offset in ((nms, 0), (nms, 1), (soft_nms, 0), (soft_nms, 1), (nms_match, 0)):
    CASES[f'{op.__name__}_at_threshold-offset={offset}'] = partial(run_at_threshold, op, offset)
for settings in [
    *(
        dict(count=50, method=method, offset=offset, min_score=min_score)
        for method, offset, min_score in product(
            ('naive', 'linear', 'gaussian'), (0, 1), (1e-3, 0.3)
        )
    ),
    dict(count=0, method='linear'),
    dict(count=1, method='linear', min_score=0.99),
    dict(count=50, method='gaussian', sigma=0.1),
    dict(count=50, method='linear', iou_threshold=0.05),
]:
    CASES[case_name('soft_nms', **settings)] = partial(run_soft_nms, **settings)
for name, settings in {
    'nms': dict(nms_cfg=dict(type='nms', iou_threshold=0.3)),
    'class_agnostic': dict(nms_cfg=dict(type='nms', iou_threshold=0.3), class_agnostic=True),
    'class_agnostic_in_cfg': dict(nms_cfg=dict(iou_threshold=0.3, class_agnostic=True)),
    'split': dict(nms_cfg=dict(type='nms', iou_threshold=0.3, split_thr=20, max_num=25)),
    'soft_nms': dict(nms_cfg=dict(type='soft_nms', iou_threshold=0.3, min_score=0.05)),
    'soft_nms_split': dict(nms_cfg=dict(type='soft_nms', iou_threshold=0.3, split_thr=20)),
    'none': dict(nms_cfg=None),
}.items():
    CASES[f'batched_nms-{name}'] = partial(run_batched_nms, **settings)
for count, threshold in product((1, 50), (0.2, 0.5)):
    CASES[f'nms_match-{count}-{threshold}'] = partial(run_nms_match, count, threshold)
for settings in [
    *(
        dict(pool_mode=pool_mode, aligned=aligned, sampling_ratio=sampling_ratio)
        for pool_mode, aligned, sampling_ratio in product(('avg', 'max'), (True, False), (0, 1, 3))
    ),
    *(
        dict(
            pool_mode=pool_mode,
            aligned=True,
            sampling_ratio=0,
            output_size=(1, 4),
            spatial_scale=1.0,
        )
        for pool_mode in ('avg', 'max')
    ),
    *(
        dict(pool_mode=pool_mode, aligned=True, sampling_ratio=0, count=0)
        for pool_mode in ('avg', 'max')
    ),
]:
    CASES[case_name('roi_align', **settings)] = partial(run_roi_align, **settings)
for modulated, settings in product(
    (False, True),
    [
        dict(),
        dict(groups=2),
        dict(deform_groups=2),
        dict(groups=2, deform_groups=4, stride=(2, 2)),
        dict(stride=(1, 2), padding=(3, 2), dilation=(2, 1)),
        dict(kernel=(1, 3), padding=(0, 0)),
        dict(batch=4, im2col_step=2),
        dict(bias=False),
    ],
):
    if ('bias' if not modulated else 'im2col_step') not in settings:  # those they do not have
        op = 'modulated_deform_conv' if modulated else 'deform_conv'
        CASES[case_name(op, **settings)] = partial(run_deform_conv, modulated, **settings)
