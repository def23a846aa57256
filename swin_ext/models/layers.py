"""Layers of V1 and V2 around the attention.

Feature maps are channels-last, (B, H, W, C).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Non-overlapping patches, (B, in_channels, H, W) -> (B, H / patch, W / patch, dim)."""

    def __init__(self, in_channels, dim, patch_size, norm):
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        pad_h, pad_w = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right so that `multiple` divides H and W."""
    pad_h, pad_w = -x.shape[1] % multiple, -x.shape[2] % multiple
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    return x


def join_neighbours(x: Tensor) -> Tensor:
    """Gather 2 x 2 neighbours, (B, H, W, C) -> (B, H / 2, W / 2, 4 C).

    Joined channels are in the order of `torch.nn.Unfold` (channel-major), as mmdet's are;
    Microsoft's, timm's and torchvision's weights have another order and need converting.
    """
    x = pad_to_multiple(x, 2)
    B, H, W, C = x.shape
    x = x.view(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(B, H // 2, W // 2, 4 * C)


class PatchMerging(nn.Module):
    """Halve the resolution, (B, H, W, C) -> (B, H / 2, W / 2, 2 C)."""

    def __init__(self, dim, norm):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim) if norm else nn.Identity()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduction(self.norm(join_neighbours(x)))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between; submodule names follow mmcv's `FFN`."""

    def __init__(self, dim, hidden_dim, drop_rate):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Dropout(drop_rate)),
            nn.Linear(hidden_dim, dim),
            nn.Dropout(drop_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class DropPath(nn.Module):
    """Stochastic depth per sample (Huang et al., https://arxiv.org/abs/1603.09382)."""

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, branch: Tensor, identity: Tensor) -> Tensor:
        """Return `identity + branch`, the branch dropped or rescaled for each sample."""
        if not self.training or self.drop_prob == 0:
            return identity + branch
        keep = 1 - self.drop_prob
        scale = branch.new_empty((len(branch),) + (1,) * (branch.ndim - 1))
        return torch.addcmul(identity, branch, scale.bernoulli_(keep).div_(keep))
