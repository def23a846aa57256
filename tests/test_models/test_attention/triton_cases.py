"""Tests of the Triton kernels, which `test_triton.py` runs in a process of its own.

The interpreter, which needs no GPU, has to be chosen before triton is imported. Attention in
float64, written out in matrix products, is the oracle; itself it is compared with peers elsewhere.
"""

from __future__ import annotations

import copy
import itertools
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compare_networks import gradients, relative_error
from swin_ext.models import SwinBackbone
from swin_ext.models.attention import triton, triton_launch
from swin_ext.models.attention.dispatch import window_attention
from swin_ext.models.attention.position_bias import relative_position_index
from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.windows import Windows

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
assert DEVICE == 'cuda' or triton_launch.IS_INTERPRETED


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64)


class Case:
    """Inputs in float64, by name, and the attention of them in other types."""

    def __init__(self, size, window, shift, heads=1, dim=16, batch=1, cosine=False):
        torch.manual_seed(0)
        C = heads * dim
        self.cut = (size, window, shift)
        self.heads, self.scale = heads, dim**-0.5
        self.inputs = dict(
            x=draw(batch, *size, C),
            weight=draw(3 * C, C) / C**0.5,
            bias=draw(3 * C),
            table=draw((2 * window - 1) ** 2, heads),
        )
        if cosine:
            self.inputs['logit_scale'] = 1 + 10 * torch.rand(heads, dtype=torch.float64)
        self.grad = draw(batch, *size, C)

    def attend(self, impl, x, weight, bias, table, logit_scale=None):
        terms = AttentionTerms(
            project=partial(F.linear, weight=weight, bias=bias),
            padding=bias,
            table=table,
            index=relative_position_index(self.cut[1]).to(x.device),
            num_heads=self.heads,
            scale=self.scale,
            logit_scale=logit_scale,
            dropout_p=0.0,
        )
        windows = Windows(*self.cut)
        assert impl != 'triton' or triton.refusal(Problem.of(x, terms, windows)) is None
        return window_attention(x, terms, windows, impl)

    def run(self, impl, dtype=torch.float32, device=DEVICE, **dtypes):
        """Output and gradients by name."""
        inputs = {
            name: value.to(device, dtypes.get(name, dtype)).requires_grad_()
            for name, value in self.inputs.items()
        }
        out = self.attend(impl, **inputs)
        grads = torch.autograd.grad(out, list(inputs.values()), self.grad.to(out))
        return dict(zip(['out', *inputs], [out.detach(), *grads]))

    def exact(self):
        return self.run('eager', torch.float64, 'cpu')


def assert_accurate(found, exact):
    for name, value in found.items():
        bound = 1e-5 if name == 'out' else 1e-4
        assert relative_error(value.cpu(), exact[name]) <= bound, name


CASES = [
    # Windows of 7 as Swin's: sizes that divide, that pad, single and narrow ones.
    dict(size=(14, 14), window=7, shift=(3, 3), heads=2, dim=32),
    dict(size=(14, 7), window=7, shift=(0, 0), dim=32, batch=2),
    dict(size=(9, 6), window=7, shift=(3, 3), heads=3, dim=24),
    dict(size=(8, 5), window=7, shift=(3, 0), dim=32),
    dict(size=(5, 4), window=7, shift=(3, 3), dim=16),
    dict(size=(1, 8), window=7, shift=(0, 3), dim=40),
    # Other windows; from 12 on, queries come in several blocks.
    dict(size=(9, 8), window=8, shift=(4, 4), dim=64),
    dict(size=(11, 10), window=12, shift=(6, 6), dim=32),
    dict(size=(15, 12), window=16, shift=(0, 8), dim=16),
    pytest.param(dict(size=(16, 16), window=16, shift=(8, 8), dim=64), marks=pytest.mark.slow),
    dict(size=(3, 2), window=2, shift=(1, 1), dim=16),
    dict(size=(6, 5), window=5, shift=(2, 2), dim=48),
    # V2
    dict(size=(7, 12), window=8, shift=(4, 4), heads=3, dim=32, cosine=True),
    dict(size=(7, 7), window=7, shift=(0, 0), heads=1, dim=24, cosine=True),
    dict(size=(12, 9), window=12, shift=(6, 0), dim=16, cosine=True),
    dict(size=(15, 16), window=16, shift=(8, 8), dim=32, cosine=True),
]


@pytest.mark.parametrize('case', CASES, ids=lambda case: '-'.join(map(str, case.values())))
def test_outputs_and_gradients_equal_float64(case):
    case = Case(**case)
    assert_accurate(case.run('triton'), case.exact())


@pytest.mark.parametrize('size', [(4, 8), (5, 3)])
def test_every_shift(size):
    for shift in itertools.product(range(4), repeat=2):
        case = Case(size, 4, shift)
        with torch.no_grad():
            out = case.attend('triton', **{k: v.float() for k, v in case.inputs.items()})
            exact = case.attend('eager', **case.inputs)
        assert relative_error(out, exact) <= 1e-5, shift


@pytest.mark.parametrize('cosine', [False, True])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_as_exact_as_eager(dtype, cosine):
    """Of both, the errors are those of rounded inputs and outputs."""
    case = Case((9, 7), 7, (3, 3), heads=2, dim=16, cosine=cosine)
    exact = case.exact()
    found, eager = case.run('triton', dtype), case.run('eager', dtype)
    for name, value in found.items():
        assert value.dtype == dtype
        error, its_error = (relative_error(v.cpu(), exact[name]) for v in (value, eager[name]))
        assert error <= 2 * its_error + torch.finfo(dtype).eps, name


def test_types_may_differ():
    """Under autocast, the table and what stands for padding are parameters in float32."""
    case = Case((9, 7), 7, (3, 3), dim=16, cosine=True)
    inputs = case.inputs
    qkv = F.linear(inputs['x'], inputs['weight'], inputs['bias'])
    kinds = [torch.bfloat16, torch.float32, torch.float16, torch.float32]
    names = ['bias', 'table', 'logit_scale']
    values = [qkv.bfloat16(), *(inputs[n].to(k) for n, k in zip(names, kinds[1:]))]

    def run(values):
        qkv, bias, table, scale = leaves = [v.detach().requires_grad_() for v in values]
        out = triton.attend_map(qkv, bias, table, scale, 1.0, 1, 7, (3, 3))
        return [out, *torch.autograd.grad(out, leaves, case.grad.to(out))]

    found = run(values)
    exact = run([v.double() for v in values])
    assert [v.dtype for v in found] == [torch.bfloat16, *kinds]
    for value, expected in zip(found, exact):
        assert relative_error(value.detach(), expected.detach()) <= 0.02


def strided(qkv):
    """The same values behind other strides."""
    B, H, W, C = qkv.shape
    yield qkv.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # of a convolution
    yield torch.zeros(B, H + 1, W + 2, C).to(qkv)[:, 1:, 2:].copy_(qkv)
    yield torch.zeros(B, H, W, 2 * C).to(qkv)[..., ::2].copy_(qkv)
    yield qkv.expand(2, -1, -1, -1)
    yield qkv.transpose(1, 2).contiguous().transpose(1, 2)


def test_strides_of_maps_and_gradients():
    qkv = torch.randn(1, 3, 5, 48)
    table = torch.randn(49, 1)
    for other in strided(qkv):
        results = []
        for given in (other, other.contiguous()):
            given = given.detach().requires_grad_()
            out = triton.attend_map(given, None, table, None, 0.25, 1, 4, (2, 2))
            transposed = out.transpose(1, 2)  # as is the gradient of it
            results.append([out, *torch.autograd.grad((transposed**2).sum(), given)])
        for found, expected in zip(*results):
            assert torch.equal(found, expected)


@pytest.mark.parametrize('window', [4, 9])  # of 9, another launch is for the table
@pytest.mark.parametrize('wanted', [(0,), (2,), (3,), (1, 2)], ids=str)
def test_gradients_for_some(wanted, window):
    torch.manual_seed(0)
    size = (5, window)
    values = [torch.randn(1, *size, 48), torch.randn(48), torch.randn((2 * window - 1) ** 2, 1)]
    values.append(torch.full((1,), 5.0))

    def run(wanted, dtype):
        inputs = [v.to(dtype, copy=True).requires_grad_(i in wanted) for i, v in enumerate(values)]
        out = triton.attend_map(*inputs, 1.0, 1, window, (2, 0))
        assert out.requires_grad
        (out * out).sum().backward()
        return [v.grad for v in inputs]

    exact = run(range(4), torch.float64)
    for i, grad in enumerate(run(wanted, torch.float32)):
        assert (grad is not None) == (i in wanted)
        if grad is not None:
            assert relative_error(grad, exact[i]) <= 1e-4


def test_no_images():
    case = Case((9, 7), 7, (3, 3), batch=0, cosine=True)
    found = case.run('triton')
    assert found['out'].shape == (0, 9, 7, 16)
    for name, value in case.inputs.items():
        assert found[name].shape == value.shape
        assert not found[name].any()


@pytest.mark.parametrize('mode', [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    case = Case((9, 7), 7, (3, 3))
    with mode():
        inputs = {k: v.float().to(DEVICE) for k, v in case.inputs.items()}
        out = case.attend('triton', **inputs)
    assert not out.requires_grad
    assert relative_error(out.cpu(), case.exact()['out']) <= 1e-5


def test_second_derivatives_are_refused():
    qkv = torch.randn(1, 4, 4, 48, requires_grad=True)
    out = triton.attend_map(qkv, None, torch.randn(49, 1), None, 1.0, 1, 4, (0, 0))
    (grad,) = torch.autograd.grad((out * out).sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="attn_impl='triton' has no second derivatives"):
        grad.sum().backward()


@pytest.mark.skipif(not triton_launch.IS_INTERPRETED, reason='float64 is for the interpreter')
@pytest.mark.parametrize('cosine', [pytest.param(False, marks=pytest.mark.slow), True])
def test_gradients_by_differences(cosine):
    torch.manual_seed(0)
    inputs = [draw(1, 3, 5, 48), draw(48), draw(49, 1), 2 + draw(1).abs() if cosine else None]
    inputs = [None if v is None else v.requires_grad_() for v in inputs]

    def attend(*inputs):
        return triton.attend_map(*inputs, 0.25, 1, 4, (2, 2))

    assert torch.autograd.gradcheck(attend, inputs, fast_mode=True)


@pytest.mark.slow
def test_operators_keep_the_rules_of_pytorch():
    """Schemas, shapes without values, and differentiation, also traced with open sizes."""
    inputs = [torch.randn(1, 3, 5, 48), torch.randn(48), torch.randn(49, 1)]
    inputs = [v.requires_grad_() for v in inputs]
    scale = torch.full((1,), 5.0, requires_grad=True)
    torch.library.opcheck(torch.ops.swin_ext.window_attention, (*inputs, scale, 0.25, 1, 4, 2, 2))


def test_zero_vectors_have_no_direction():
    """A query, a key, and with them the gradients of their directions."""
    torch.manual_seed(0)
    qkv = torch.randn(1, 4, 4, 3, 16)
    qkv[0, 1, 2, 0] = 0
    qkv[0, 3, 1, 1] = 0
    qkv = qkv.flatten(3).requires_grad_()
    out = triton.attend_map(qkv, None, torch.randn(49, 1), torch.ones(1), 1.0, 1, 4, (0, 0))
    (grad,) = torch.autograd.grad(out.square().sum(), qkv)
    grad = grad.unflatten(3, (3, 16))
    assert grad.isfinite().all()
    assert not grad[0, 1, 2, 0].any() and not grad[0, 3, 1, 1].any()
    assert grad[0, 1, 1, 0].any() and grad[0, 3, 1, 2].any()


def test_large_logits_do_not_overflow():
    torch.manual_seed(0)
    qkv = (1e4 * torch.randn(1, 5, 5, 48)).requires_grad_()
    out = triton.attend_map(qkv, None, torch.randn(49, 1), None, 1.0, 1, 4, (2, 2))
    (grad,) = torch.autograd.grad(out.sum(), qkv)
    assert out.isfinite().all() and grad.isfinite().all()


def test_results_do_not_depend_on_chance_or_on_the_sharing_of_windows(monkeypatch):
    case = Case((6, 7), 4, (2, 2), heads=2, cosine=True)
    first, second = case.run('triton'), case.run('triton')
    assert all(torch.equal(first[name], second[name]) for name in first)
    for programs in (1, 1000):  # all windows of a head by one, and each by its own
        monkeypatch.setattr(
            triton_launch, 'PROGRAMS_PER_PROCESSOR', dict(forward=programs, backward=programs)
        )
        assert_accurate(case.run('triton'), case.exact())


class Sizes(TorchDispatchMode):
    """Bytes of each storage that an operation makes."""

    def __init__(self):
        super().__init__()
        self.made = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor):
                storage = x.untyped_storage()
                self.made[storage.data_ptr()] = storage.nbytes()
        return out


def test_no_weights_and_no_windows_are_stored(monkeypatch):
    monkeypatch.setitem(triton_launch.PROGRAMS_PER_PROCESSOR, 'backward', 1)
    size, window, heads, dim = (20, 26), 7, 1, 16
    case = Case(size, window, (3, 3), heads=heads, dim=dim)
    windows, N = 3 * 4, window**2
    with torch.no_grad():
        inputs = {k: v.float() for k, v in case.inputs.items()}
        qkv = F.linear(inputs['x'], inputs['weight'], inputs['bias'])
        grad = case.grad.float()
    given = (qkv, inputs['bias'], inputs['table'], None, 0.25, heads, window, (3, 3))
    with Sizes() as sizes:  # below the operator, whose inside no mode sees
        triton_launch.forward(*given)
        triton_launch.backward(grad, *given, wants_qkv=True, wants_table=True)
    of_map = 4 * size[0] * size[1] * heads * dim
    assert of_map in sizes.made.values() and 3 * of_map in sizes.made.values()
    others = set(sizes.made.values()) - {of_map, 3 * of_map}
    # The sum of a program; the smallest copy in windows would be of queries alone.
    of_windows, of_weights = 4 * windows * N * heads * dim, 4 * windows * heads * N * N
    assert max(others) == 4 * heads * N * N < of_windows < of_weights

    with Sizes() as sizes:  # which the oracle makes
        case.run('eager', device='cpu')
    assert {of_weights, 3 * of_windows} <= set(sizes.made.values())


ARCHS = {
    'v1': dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2)),
    'v2': dict(version=2, embed_dims=16, depths=(2, 1), num_heads=(1, 2)),
}


def make_backbone(version, **kwargs):
    torch.manual_seed(0)
    backbone = SwinBackbone(
        arch=ARCHS[version], window_size=4, out_indices=(0, 1), drop_path_rate=0.0, **kwargs
    )
    for name, parameter in backbone.named_parameters():
        if not name.endswith('logit_scale'):
            nn.init.normal_(parameter, std=0.2)
    return backbone.to(DEVICE)


@pytest.mark.parametrize(
    'version, kwargs',
    [('v1', {}), ('v1', dict(qkv_bias=False)), ('v2', dict(with_cp=True))],
    ids=str,
)
def test_backbones_equal_float64(version, kwargs):
    own = make_backbone(version, attn_impl='triton', **kwargs)
    exact = copy.deepcopy(own).double()
    for module in exact.modules():
        if hasattr(module, 'attn_impl'):
            module.attn_impl = 'eager'
    images = torch.randn(1, 3, 25, 13, device=DEVICE)
    exact_gradients = gradients(exact, images.double())
    for name, grad in gradients(own, images).items():
        # Biases of keys cancel in the softmax: their gradients are zero but for rounding.
        assert relative_error(grad, exact_gradients[name]) <= 1e-4, name


@pytest.mark.parametrize('version', [pytest.param('v1', marks=pytest.mark.slow), 'v2'])
def test_autocast(version):
    own, eager = (make_backbone(version, attn_impl=impl) for impl in ('triton', 'eager'))
    images = torch.randn(1, 3, 20, 20, device=DEVICE)

    def forward(model, images):
        with torch.autocast(DEVICE, dtype=torch.bfloat16):
            return model(images)

    expected = gradients(eager, images)
    found = gradients(own, images, partial(forward, own))
    peer = gradients(eager, images, partial(forward, eager))
    error, its_error = (
        relative_error(*(torch.cat([g[n].flatten() for n in expected]) for g in (grads, expected)))
        for grads in (found, peer)
    )
    assert error <= 2 * its_error < 0.2


def test_compiles_without_graph_breaks():
    own = make_backbone('v1', attn_impl='triton')
    images = torch.randn(1, 3, 20, 20, device=DEVICE)
    expected = gradients(own, images)
    compiled = torch.compile(own, fullgraph=True, backend='aot_eager', dynamic=False)
    for name, grad in gradients(own, images, lambda images: compiled(images)).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-4, atol=1e-5)
