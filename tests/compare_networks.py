"""Comparing a network with its peer: outputs, and gradients of random projections of them."""

import pytest
import torch
from mmengine.utils import digit_version

CPU_AUTOCAST_DTYPES = [
    torch.bfloat16,
    pytest.param(
        torch.float16,
        marks=pytest.mark.skipif(
            digit_version(torch.__version__) < digit_version('2.3'),
            reason='float16 autocast on CPUs needs torch >= 2.3',
        ),
    ),
]


def assert_same_outputs(actual, expected):
    assert len(actual) == len(expected)
    for a, e in zip(actual, expected):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * float(e.abs().max()))


def gradients(module, images, forward=None):
    """Gradients of the parameters of `module`, whose maps are those of `forward(images)`."""
    module.zero_grad()
    generator = torch.Generator().manual_seed(1)
    loss = sum(
        (out * torch.randn(out.shape, generator=generator).to(out)).sum()
        for out in (forward or module)(images)
    )
    loss.backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def relative_error(actual, expected):
    return float((actual.double() - expected).norm() / expected.norm())
