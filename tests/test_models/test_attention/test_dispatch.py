"""Implementations by name: what they refuse, and what comes in the place of a refused one."""

from __future__ import annotations

import logging

import pytest
import torch

from swin_ext.models import SwinBackbone
from swin_ext.models.attention import dispatch, triton
from swin_ext.models.attention.problem import AttentionTerms, Problem
from swin_ext.models.attention.windows import Windows

ARCH = dict(embed_dims=16, depths=(2, 1), num_heads=(1, 2))


def problem_of(
    device='cuda', dtype=torch.bfloat16, shape=(2, 9, 8, 96), heads=3, window=7, dropout_p=0.0
):
    windows = Windows(shape[1:3], window, (3, 3))
    return Problem(torch.device(device), dtype, shape, heads, windows, dropout_p)


@pytest.mark.parametrize(
    'changes, reason',
    [
        (dict(device='cpu'), 'it runs on CUDA devices, and not on cpu'),
        (dict(device='meta'), 'not on meta'),
        (dict(dtype=torch.float64), 'it has no kernel for torch.float64'),
        (dict(window=17), 'windows of 17 x 17 tokens are larger than 16 x 16'),
        (dict(heads=8), 'heads of 12 channels are not of 16 to 64'),
        (dict(heads=1), 'heads of 96 channels are not of 16 to 64'),
        (dict(dropout_p=0.1), 'it has no dropout'),
        (
            dict(dtype=torch.float32, window=12, heads=2),
            'windows of 12 x 12 tokens of 48 float32 do not fit shared memory',
        ),
        (dict(shape=(1, 4096, 2048, 96)), 'a map of 4096 x 2048 tokens is too large'),
    ],
    ids=str,
)
def test_what_triton_refuses(changes, reason, monkeypatch):
    monkeypatch.setattr(triton, '_lack', lambda device, dtype: None)
    assert triton.refusal(problem_of()) is None
    assert reason in triton.refusal(problem_of(**changes))


@pytest.mark.parametrize(
    'version, capability, dtype, reason',
    [
        ('3.6.0', (9, 0), torch.bfloat16, None),
        ('3.6.0', (7, 5), torch.float16, None),
        ('3.6.0', (7, 5), torch.bfloat16, 'a GPU is too old for it in torch.bfloat16'),
        ('3.6.0', (6, 1), torch.float32, 'too old'),
        ('3.2.1', (9, 0), torch.float32, 'triton 3.2.1 is older than 3.3'),
        (None, (9, 0), torch.float32, 'triton cannot be imported'),
    ],
)
def test_what_triton_lacks(version, capability, dtype, reason, monkeypatch):
    def import_module(name):
        if version is None:
            raise ImportError(f'No module named {name!r}')
        return type('Triton', (), dict(__version__=version))

    monkeypatch.setattr(triton.importlib, 'import_module', import_module)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'a GPU')
    found = triton._find_lack.__wrapped__(torch.device('cuda'), dtype)
    assert found is None if reason is None else reason in found


def test_triton_falls_back_with_the_reason(monkeypatch):
    said = []
    monkeypatch.setattr(dispatch, 'print_log', lambda *args: said.append(args))
    dispatch._warn_once.cache_clear()
    images = torch.randn(1, 3, 33, 45)
    outs = []
    for impl in ('triton', 'eager'):
        torch.manual_seed(0)
        backbone = SwinBackbone(arch=ARCH, attn_impl=impl, out_indices=(0, 1)).eval()
        with torch.no_grad():
            outs.append(backbone(images))
    assert all(map(torch.equal, *outs))
    ((message, _, level),) = said  # of three blocks
    assert message.startswith("attn_impl='triton' is replaced by 'auto': it runs on CUDA devices")
    assert level == logging.WARNING
    dispatch._warn_once.cache_clear()


@pytest.mark.parametrize('impl', ['eager', 'sdpa', 'auto'])
def test_whole_numbers_are_refused(impl):
    x = torch.zeros(1, 7, 7, 16, dtype=torch.int64)
    terms = AttentionTerms(torch.nn.Identity(), None, x, x, 1, 1.0, None, 0.0)
    with pytest.raises(TypeError, match='torch.int64 is no floating type'):
        dispatch.window_attention(x, terms, Windows((7, 7), 7, (0, 0)), impl)


def test_names_of_the_implementations():
    assert list(dispatch.IMPLEMENTATIONS) == ['eager', 'sdpa', 'triton']
    for module in dispatch.IMPLEMENTATIONS.values():
        assert callable(module.attend) and callable(module.refusal)
