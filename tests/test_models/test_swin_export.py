"""Compilers and exporters see the whole backbone, and compute the same."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.utils import digit_version
from torch import nn

from swin_ext.models import SwinBackbone

ARCH = dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2))
SIZES = [(56, 56), (33, 45)]  # windows divide the first map; they do not

TORCH = digit_version(torch.__version__)


def make_backbone(**kwargs):
    torch.manual_seed(0)
    backbone = SwinBackbone(arch=ARCH, out_indices=(0, 1), drop_path_rate=0.0, **kwargs)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone


def assert_close(actual, expected, rtol):
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= rtol * expected.abs().max()


@pytest.mark.skipif(
    TORCH < digit_version('2.3'), reason='torch.compiler.is_compiling came with PyTorch 2.3'
)
@pytest.mark.parametrize(
    'is_training, kwargs',
    [
        (False, dict(attn_impl='sdpa')),
        (True, dict(attn_impl='eager')),
        (True, dict(frozen_stages=1, attn_impl='sdpa')),
    ],
    ids=str,
)
def test_compiles_without_graph_breaks(is_training, kwargs):
    torch._dynamo.reset()
    eager = make_backbone(**kwargs).train(is_training)
    backbone = copy.deepcopy(eager)
    with torch.inference_mode():  # what was cached then must not enter the graph
        backbone(torch.randn(2, 3, *SIZES[0]))
    compiled = torch.compile(backbone, fullgraph=True, backend='aot_eager', dynamic=False)
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        with torch.set_grad_enabled(is_training):
            actual, expected = compiled(images), eager(images)
        for a, e in zip(actual, expected):
            assert_close(a, e, 1e-5)
        if not is_training:
            continue
        for module, outs in ((backbone, actual), (eager, expected)):
            module.zero_grad()
            sum(out.square().mean() for out in outs).backward()
        for (name, own), peer in zip(backbone.named_parameters(), eager.parameters()):
            assert (own.grad is None) == (peer.grad is None) == (not own.requires_grad), name
            if own.grad is not None:
                # Biases of keys cancel in the softmax: gradients of zero but for rounding.
                torch.testing.assert_close(own.grad, peer.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    TORCH < digit_version('2.5'), reason='torch.onnx.export takes dynamo=True from PyTorch 2.5 on'
)
@pytest.mark.parametrize('size, attn_impl', [(SIZES[0], 'eager'), (SIZES[1], 'sdpa')])
def test_onnx_runtime_computes_the_same(tmp_path, size, attn_impl):
    pytest.importorskip('onnx')
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')
    backbone = make_backbone(attn_impl=attn_impl).eval()
    images = torch.randn(2, 3, *size)
    path = str(tmp_path / 'backbone.onnx')
    torch.onnx.export(backbone, (images,), path, dynamo=True)  # with gradients enabled
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    outs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = backbone(images)
    assert len(outs) == len(expected)
    for out, e in zip(outs, expected):
        assert_close(torch.from_numpy(out), e, 1e-4)
