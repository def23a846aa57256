"""Our ops against definitions, where compiled mmcv has no CPU kernel or leaves the result open."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
import torchvision
from mmcv.ops import (
    RoIAlign,
    batched_nms,
    deform_conv2d,
    nms,
    nms_match,
    roi_align,
    roi_pool,
    sigmoid_focal_loss,
    soft_nms,
    softmax_focal_loss,
)
from mmcv.ops.modulated_deform_conv import modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from op_cases import random_boxes
from torch.autograd import gradcheck

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device'),
    ),
]


def iou(a, b, offset=0):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    area_a, area_b = ((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return width * height / (area_a + area_b - width * height)


def greedy_groups(boxes, scores, overlaps):
    """NMS by its definition, equal scores by rising index: [[kept, suppressed, ...], ...]."""
    order = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    groups = []
    while order:
        first, order = order[0], order[1:]
        group = [first, *(i for i in order if overlaps(boxes[first], boxes[i]))]
        order = [i for i in order if i not in group]
        groups.append(group)
    return groups


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
def test_nms_keeps_the_first_of_equal_scores(offset, device):
    boxes, scores = random_boxes(3, 80, equal_scores=True)
    boxes[:, 2:] += 1  # 0/0 is not what is tested here
    expected = greedy_groups(
        boxes.double().tolist(), scores.tolist(), lambda a, b: iou(a, b, offset) > 0.3
    )
    _, keep = nms(boxes.to(device), scores.to(device), iou_threshold=0.3, offset=offset)
    assert keep.tolist() == [group[0] for group in expected]
    assert len(keep) < 60


def test_nms_match_keeps_the_first_of_equal_scores():
    boxes, scores = random_boxes(3, 80, equal_scores=True)
    boxes[:, 2:] += 1
    expected = greedy_groups(
        boxes.double().tolist(), scores.tolist(), lambda a, b: iou(a, b) >= 0.3
    )
    groups = nms_match(torch.cat([boxes, scores[:, None]], dim=1), 0.3)
    assert [group.tolist() for group in groups] == expected


def test_batched_nms_same_as_torchvision():
    boxes, scores = random_boxes(4, 500, equal_scores=True)
    labels = torch.from_numpy(np.random.RandomState(0).randint(0, 5, 500))
    _, keep = batched_nms(boxes, scores, labels, dict(type='nms', iou_threshold=0.5))
    assert keep.tolist() == torchvision.ops.batched_nms(boxes, scores, labels, 0.5).tolist()


@pytest.mark.parametrize(
    'gamma, alpha, weighted',
    [(2.0, 0.25, False), (1.5, 0.75, True), (0.0, 0.5, False), (0.0, 0.25, True)],
)
@pytest.mark.parametrize('reduction', ['none', 'mean', 'sum'])
def test_sigmoid_focal_loss_same_as_torchvision(gamma, alpha, weighted, reduction):
    rng = np.random.RandomState(1)
    logits = torch.from_numpy(6 * rng.randn(20, 4)).requires_grad_()
    # 4 is background; without weights, as mmcv has no weight for it
    target = torch.from_numpy(rng.randint(0, 4 if weighted else 5, 20))
    weight = torch.from_numpy(rng.rand(4)) if weighted else None
    one_hot = torch.nn.functional.one_hot(target, 5)[:, :4].double()

    expected = torchvision.ops.sigmoid_focal_loss(logits, one_hot, alpha, gamma)
    if weighted:
        expected = expected * weight[target][:, None]
    expected = {'none': expected, 'mean': expected.sum() / 20, 'sum': expected.sum()}[reduction]
    noise = torch.from_numpy(np.asarray(rng.randn(*expected.shape)))
    (expected_grad,) = torch.autograd.grad(expected, logits, noise)

    loss = sigmoid_focal_loss(logits, target, gamma, alpha, weight, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits, noise)[0], expected_grad)


@pytest.mark.parametrize(
    'gamma, alpha, weighted', [(2.0, 0.25, False), (1.5, 0.75, True), (1.0, 1.0, False)]
)
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_softmax_focal_loss_same_as_definition(gamma, alpha, weighted, reduction):
    rng = np.random.RandomState(2)
    logits = torch.from_numpy(3 * rng.randn(20, 4)).requires_grad_()
    target = torch.from_numpy(rng.randint(-1, 4, 20))  # -1 is ignored
    weight = torch.from_numpy(rng.rand(4)) if weighted else None

    expected = 0
    for row, t in zip(logits, target.tolist()):
        if t >= 0:
            log_p = row[t] - row.logsumexp(dim=0)
            expected = expected - alpha * (1 - log_p.exp()) ** gamma * log_p * (
                weight[t] if weighted else 1
            )
    expected = expected / 20 if reduction == 'mean' else expected
    (expected_grad,) = torch.autograd.grad(expected, logits)

    loss = softmax_focal_loss(logits, target, gamma, alpha, weight, reduction)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected_grad)


@pytest.mark.parametrize('loss', [sigmoid_focal_loss, softmax_focal_loss])
def test_focal_loss_extremes(loss):
    logits = torch.tensor([[200.0, -200.0, 0.0]] * 3, requires_grad=True)
    value = loss(logits, torch.tensor([0, 1, 2]), 2.0, 0.25, None, 'sum')
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()
    assert loss(logits[:0], torch.empty(0, dtype=torch.long), 2.0, 0.25, None, 'sum') == 0
    with pytest.raises(ValueError, match='target 5 is larger than the number of classes, 3'):
        loss(logits, torch.tensor([0, 1, 5]), 2.0, 0.25, None, 'sum')


def roi_pool_by_definition(features, rois, size, scale):
    output = np.zeros((len(rois), features.shape[1], *size))
    grad = []  # (k, c, i, j) -> (b, c, row, column)
    height, width = features.shape[2:]
    for k, (b, x1, y1, x2, y2) in enumerate(rois):
        y1, x1, y2, x2 = y1 * scale, x1 * scale, (y2 + 1) * scale, (x2 + 1) * scale
        if y2 <= y1 or x2 <= x1:
            continue
        for c, i, j in product(range(features.shape[1]), range(size[0]), range(size[1])):
            rows = range(
                max(math.floor(y1 + i * (y2 - y1) / size[0]), 0),
                min(math.ceil(y1 + (i + 1) * (y2 - y1) / size[0]), height),
            )
            columns = range(
                max(math.floor(x1 + j * (x2 - x1) / size[1]), 0),
                min(math.ceil(x1 + (j + 1) * (x2 - x1) / size[1]), width),
            )
            pixels = [(int(b), c, row, column) for row, column in product(rows, columns)]
            if pixels:
                largest = max(pixels, key=lambda pixel: features[pixel])
                output[k, c, i, j] = features[largest]
                grad.append(((k, c, i, j), largest))
    return output, grad


@pytest.mark.parametrize('size, scale', [((3, 2), 0.5), ((1, 1), 1.0), ((7, 7), 0.25)])
def test_roi_pool_same_as_definition(size, scale):
    rng = np.random.RandomState(3)
    features = np.round(2 * rng.randn(2, 3, 9, 8)) / 2  # ties: the first pixel wins
    corner = rng.rand(12, 2) * 24 - 6
    rois = np.concatenate([rng.randint(0, 2, (12, 1)), corner, corner + rng.rand(12, 2) * 16], 1)
    rois[0, 1:] = [3, 4, 3, 4]
    rois[1, 1:] = [40, 40, 50, 50]  # outside
    rois[2, 1:] = [9, 9, 2, 2]  # turned around: pools nothing
    expected, pixels = roi_pool_by_definition(features, rois, size, scale)
    noise = rng.randn(*expected.shape)
    expected_grad = np.zeros_like(features)
    for source, pixel in pixels:
        expected_grad[pixel] += noise[source]

    inputs = torch.from_numpy(features).requires_grad_()
    output = roi_pool(inputs, torch.from_numpy(rois), size, scale)
    output.backward(torch.from_numpy(noise))
    np.testing.assert_array_equal(output.detach().numpy(), expected)
    np.testing.assert_allclose(inputs.grad.numpy(), expected_grad, atol=1e-12)
    assert roi_pool(inputs, torch.zeros(0, 5).double(), size, scale).shape == (0, 3, *size)


def deformable_attention_inputs():
    rng = np.random.RandomState(4)
    shapes = torch.tensor([[6, 4], [3, 2], [1, 1]])
    value = torch.from_numpy(rng.randn(2, 31, 2, 3))
    locations = torch.from_numpy(1.6 * rng.rand(2, 5, 2, 3, 4, 2) - 0.3)  # beyond [0, 1]
    weights = torch.from_numpy(rng.rand(2, 5, 2, 3, 4))
    return value, shapes, torch.tensor([0, 24, 30]), locations, weights


@pytest.mark.parametrize('device', DEVICES)
def test_deformable_attention_same_as_pytorch_formula(device):
    value, shapes, starts, locations, weights = (
        tensor.to(device) for tensor in deformable_attention_inputs()
    )
    inputs = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    expected = multi_scale_deformable_attn_pytorch(value, shapes, locations, weights)
    output = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, 64)
    torch.testing.assert_close(output, expected)
    noise = torch.randn_like(output)
    torch.testing.assert_close(
        torch.autograd.grad(output, inputs, noise), torch.autograd.grad(expected, inputs, noise)
    )


def sample_slopes(image, y, x):
    """Derivatives by y and x of the bilinear sample of an image (C, H, W), as mmcv defines them.

    Nothing outside of the open intervals (-1, H) and (-1, W) has any; at a pixel it is that
    towards the next one.
    """
    channels, height, width = image.shape
    if not (-1 < y < height and -1 < x < width):
        return np.zeros(channels), np.zeros(channels)

    def pixel(row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[:, row, column] if inside else np.zeros(channels)

    row, column = math.floor(y), math.floor(x)
    dy, dx = y - row, x - column
    top = pixel(row, column), pixel(row, column + 1)
    bottom = pixel(row + 1, column), pixel(row + 1, column + 1)
    by_y = (1 - dx) * (bottom[0] - top[0]) + dx * (bottom[1] - top[1])
    by_x = (1 - dy) * (top[1] - top[0]) + dy * (bottom[1] - bottom[0])
    return by_y, by_x


@pytest.mark.parametrize('modulated', [False, True])
@pytest.mark.parametrize('step', [1.0, 0.5, 0.3])  # of offsets: many samples at -1, H and W, or few
@pytest.mark.parametrize('device', DEVICES)
def test_deformable_convolution_offset_gradients_at_the_border(device, step, modulated):
    rng = np.random.RandomState(6)
    groups, kernel, stride, pad, dilation = 2, (2, 3), (2, 1), (1, 2), (1, 2)
    image, weight = rng.randn(2, 4, 5, 6), rng.randn(3, 4, *kernel)
    out_size = tuple(
        (image.shape[2 + i] + 2 * pad[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in range(2)
    )
    offset = step * rng.randint(-3, 4, (2, groups, *kernel, 2, *out_size))
    mask = rng.rand(2, groups, *kernel, *out_size) if modulated else None
    grad = rng.randn(2, 3, *out_size)

    expected, num_at_border = np.zeros_like(offset), 0
    for n, g, i, j, row, column in np.ndindex(2, groups, *kernel, *out_size):
        y = row * stride[0] - pad[0] + i * dilation[0] + offset[n, g, i, j, 0, row, column]
        x = column * stride[1] - pad[1] + j * dilation[1] + offset[n, g, i, j, 1, row, column]
        num_at_border += -1 in (y, x)
        chosen = slice(2 * g, 2 * g + 2)
        slopes = sample_slopes(image[n, chosen], y, x)
        by_channel = grad[n, :, row, column] @ weight[:, chosen, i, j]
        if modulated:
            by_channel = by_channel * mask[n, g, i, j, row, column]
        for axis in range(2):
            expected[n, g, i, j, axis, row, column] = by_channel @ slopes[axis]
    assert num_at_border > 20 or step == 0.3

    def tensor(array):
        return torch.from_numpy(array).to(device).requires_grad_()

    tensors = tensor(image), tensor(offset.reshape(2, -1, *out_size)), tensor(weight)
    geometry = stride, pad, dilation, 1, groups
    if modulated:
        inputs, offsets, weights = tensors
        masks = tensor(mask.reshape(2, -1, *out_size))
        output = modulated_deform_conv2d(inputs, offsets, masks, weights, None, *geometry)
    else:
        output = deform_conv2d(*tensors, *geometry)
    output.backward(torch.from_numpy(grad).to(device))
    np.testing.assert_allclose(
        tensors[1].grad.cpu().numpy().reshape(offset.shape), expected, atol=1e-12
    )


@pytest.mark.parametrize('device', DEVICES)
def test_deformable_attention_location_gradients_at_the_border(device):
    rng = np.random.RandomState(7)
    height, width = 4, 8  # so that locations of whole and half pixels have no rounding
    value = rng.randn(1, height * width, 1, 3)
    pixels = np.stack(
        np.meshgrid(np.arange(-1.5, width + 1, 0.5), np.arange(-1.5, height + 1, 0.5)), axis=-1
    ).reshape(-1, 2)  # (x, y)
    locations = ((pixels + 0.5) / (width, height)).reshape(1, -1, 1, 1, 1, 2)
    weights = rng.rand(1, len(pixels), 1, 1, 1)
    grad = rng.randn(1, len(pixels), 3)

    image = value[0, :, 0].T.reshape(3, height, width)
    expected = np.zeros((len(pixels), 2))
    for query, (x, y) in enumerate(pixels):
        by_y, by_x = sample_slopes(image, y, x)
        scale = weights[0, query, 0, 0, 0] * grad[0, query]
        expected[query] = width * (scale @ by_x), height * (scale @ by_y)

    inputs = [torch.from_numpy(x).to(device).requires_grad_() for x in (value, locations, weights)]
    shapes, starts = torch.tensor([[height, width]]), torch.tensor([0])
    output = MultiScaleDeformableAttnFunction.apply(
        inputs[0], shapes.to(device), starts.to(device), *inputs[1:], 64
    )
    output.backward(torch.from_numpy(grad).to(device))
    np.testing.assert_allclose(inputs[1].grad.cpu().numpy().reshape(-1, 2), expected, atol=1e-12)


@pytest.mark.parametrize('device', DEVICES)
def test_gradients_in_float64(device):
    """Analytic against numerical gradients of every differentiable op."""
    rng = np.random.RandomState(5)

    def random(*shape):
        return torch.from_numpy(rng.randn(*shape)).to(device).requires_grad_()

    rois = torch.tensor([[0, 1.2, 1.7, 9.1, 8.3], [1, -3, -3, 20, 20]]).double().to(device)
    target = torch.tensor([0, 2, 1]).to(device)
    for pool_mode in ('avg', 'max'):
        assert gradcheck(
            lambda x, mode=pool_mode: roi_align(x, rois, 2, 0.5, 0, mode, True), random(2, 2, 6, 5)
        )
    assert gradcheck(lambda x: roi_pool(x, rois, 2, 0.5), random(2, 2, 6, 5))
    assert gradcheck(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'mean'), random(3, 3))
    assert gradcheck(lambda x: softmax_focal_loss(x, target, 2.0, 0.25, None, 'mean'), random(3, 3))
    assert gradcheck(
        lambda x, o, w: deform_conv2d(x, o, w, 1, 1, 1, 1, 2),
        [random(1, 2, 3, 4), random(1, 36, 3, 4), random(2, 2, 3, 3)],
    )
    assert gradcheck(
        lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, 1, 1, 1, 1, 1),
        [
            random(1, 2, 3, 4),
            random(1, 18, 3, 4),
            random(1, 9, 3, 4),
            random(2, 2, 3, 3),
            random(2),
        ],
    )
    value, shapes, starts, locations, weights = (
        tensor.to(device) for tensor in deformable_attention_inputs()
    )
    assert gradcheck(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, w, 64),
        [
            value[:1, :, :, :1].requires_grad_(),
            locations[:1, :1].requires_grad_(),
            weights[:1, :1].requires_grad_(),
        ],
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_16_bit_floats(dtype, device):
    """Computed in float32 and rounded once: within the resolution of the 16-bit type."""
    rng = np.random.RandomState(6)

    def random(*shape):
        return torch.from_numpy(rng.randn(*shape)).to(device, dtype)

    def check(op, *inputs):
        results = []
        for cast in (dtype, torch.float32):
            leaves = [tensor.detach().to(cast).requires_grad_() for tensor in inputs]
            output = op(*leaves)
            output.backward(torch.ones_like(output))
            assert {output.dtype, *(leaf.grad.dtype for leaf in leaves)} == {cast}
            results.append([output, *(leaf.grad for leaf in leaves)])
        for low, full in zip(*results):
            torch.testing.assert_close(
                low.float(), full, rtol=2 * torch.finfo(dtype).eps, atol=2 * torch.finfo(dtype).eps
            )

    rois = torch.tensor([[0, 1, 2, 9, 8], [1, -3, -3, 20, 20], [1, 2, 2, 3, 5]]).to(device, dtype)
    target = torch.tensor([0, 2, 1]).to(device)
    features = random(2, 2, 6, 5)
    for mode in ('avg', 'max'):
        check(lambda x, mode=mode: roi_align(x, rois.to(x), 2, 0.5, 0, mode, True), features)
    check(lambda x: roi_pool(x, rois.to(x), 2, 0.5), features)
    check(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, None, 'sum'), random(3, 3))
    check(
        lambda x, o, w: deform_conv2d(x, o, w, 1, 1, 1, 1, 2),
        random(1, 2, 3, 4),
        random(1, 36, 3, 4),
        random(2, 2, 3, 3),
    )
    check(
        lambda x, o, m, w, b: modulated_deform_conv2d(x, o, m, w, b, 1, 1, 1, 1, 1),
        random(1, 2, 3, 4),
        random(1, 18, 3, 4),
        random(1, 9, 3, 4),
        random(2, 2, 3, 3),
        random(2),
    )
    value, shapes, starts, locations, weights = (
        tensor.to(device) for tensor in deformable_attention_inputs()
    )
    check(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, starts, p, w, 64),
        *(tensor.to(dtype) for tensor in (value, locations, weights)),
    )

    boxes, scores = (tensor.to(device, dtype) for tensor in random_boxes(7, 60, equal_scores=True))
    for suppress in (nms, soft_nms):
        dets, keep = suppress(boxes, scores, iou_threshold=0.3)
        assert dets.dtype == dtype
        assert keep.tolist() == suppress(boxes.float(), scores.float(), 0.3)[1].tolist()


@pytest.mark.parametrize('pool_mode', ['avg', 'max'])
def test_roi_align_of_non_contiguous_tensors(pool_mode):
    rng = np.random.RandomState(8)
    features = torch.from_numpy(rng.randn(2, 3, 9, 7)).contiguous(memory_format=torch.channels_last)
    rois = torch.tensor([[0, 1, 2, 9, 8], [1, -3, -3, 20, 20]]).double().T.contiguous().T
    layer = RoIAlign((3, 2), 0.5, 0, pool_mode)
    results = []
    for x, r in ((features, rois), (features.contiguous(), rois.contiguous())):
        x = x.detach().requires_grad_()
        output = layer(x, r)
        output.transpose(2, 3).square().sum().backward()
        results.append((output, x.grad))
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_roi_align_refuses_inverted_rois():
    layer = RoIAlign((3, 2), 0.5, aligned=True)
    with pytest.raises(ValueError, match=r'x2 >= x1 and y2 >= y1, got \[0.0, 9.0, 2.0, 1.0, 8.0\]'):
        layer(torch.zeros(1, 1, 4, 4), torch.tensor([[0, 1, 2, 9, 8], [0, 9, 2, 1, 8.0]]))
