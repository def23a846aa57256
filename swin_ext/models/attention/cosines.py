"""Scaled cosines in place of dot products, as Swin V2 attends."""

from __future__ import annotations

import torch
from torch import Tensor

# Shorter queries and keys count as zero vectors; the `eps` of `torch.nn.functional.normalize`.
MIN_LENGTH = 1e-12


def scale_to_cosines(qkv: Tensor, logit_scale: Tensor) -> Tensor:
    """Make products of queries and keys cosines times a scale.

    Args:
        qkv: (B * nW, N, 3, nH, C / nH).
        logit_scale: Factor of each head, (nH, 1).

    Returns:
        `qkv` with keys of length 1 and queries of length `logit_scale`, but for zero vectors.
    """
    lengths = torch.linalg.vector_norm(qkv[:, :, :2], dim=-1, keepdim=True)  # (B*nW, N, 2, nH, 1)
    # Keys of padding are zero vectors. A factor of 1 / MIN_LENGTH would leave them so, but it would
    # also multiply their gradient, which float16 cannot hold.
    inverse = torch.where(lengths > MIN_LENGTH, lengths.clamp_min(MIN_LENGTH).reciprocal(), 0.0)
    inverse_q, inverse_k = inverse.split(1, dim=2)
    factors = [inverse_q * logit_scale, inverse_k, torch.ones_like(inverse_k)]
    return qkv * torch.cat(factors, dim=2)
