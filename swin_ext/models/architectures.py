"""Sizes of Swin Transformers, and what a size may say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from swin_ext.utils.errors import UserError


class SwinArgumentError(UserError, ValueError):
    """Arguments of a `SwinBackbone` that are impossible, or contradict each other."""


# Table 7 of the paper, 'Model configurations' of that of V2; num_heads is dim / 32 throughout.
ARCHITECTURES = {
    'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    'v2-tiny': dict(version=2, embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    'v2-small': dict(version=2, embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    'v2-base': dict(version=2, embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}


def resolve_arch(arch: str | dict) -> dict:
    """Return `version`, `embed_dims`, `depths` and `num_heads` for a name or a custom dict.

    Raises:
        SwinArgumentError: If the name or the version is unknown, a key is missing or unknown, the
            lengths of `depths` and `num_heads` differ, or a stage's width does not divide by its
            heads.
    """
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            raise SwinArgumentError(
                f'SwinBackbone: unknown arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)} or give a dict with embed_dims, depths '
                'and num_heads.'
            )
        return {'version': 1, **ARCHITECTURES[arch]}
    if set(arch) - {'version'} != {'embed_dims', 'depths', 'num_heads'}:
        raise SwinArgumentError(
            'SwinBackbone: a custom arch needs exactly the keys embed_dims, depths '
            'and num_heads, and version=2 for Swin V2, '
            f'but has {sorted(arch)}.'
        )
    arch = {'version': 1, **arch}
    if arch['version'] not in (1, 2):
        raise SwinArgumentError(
            f'SwinBackbone: there is no Swin of version {arch["version"]!r}, but 1 and 2.'
        )
    if len(arch['depths']) != len(arch['num_heads']):
        raise SwinArgumentError(
            'SwinBackbone: depths and num_heads must have one entry per stage, but '
            f'are {tuple(arch["depths"])} and {tuple(arch["num_heads"])}.'
        )
    for i, heads in enumerate(arch['num_heads']):
        if arch['embed_dims'] * 2**i % heads:
            raise SwinArgumentError(
                f'SwinBackbone: stage {i} has {arch["embed_dims"] * 2**i} channels, '
                f'which do not divide into {heads} heads.'
            )
    return arch


def one_per_stage(name: str, sizes: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Repeat one window size for each stage, or check that there is one for each.

    Raises:
        SwinArgumentError: If a size is no number of tokens, or there is not one for each stage.
    """
    per_stage = (sizes,) * num_stages if isinstance(sizes, int) else tuple(sizes)
    if len(per_stage) != num_stages or not all(isinstance(w, int) and w > 0 for w in per_stage):
        raise SwinArgumentError(
            f'SwinBackbone: {name}={sizes!r} must be a positive number of tokens, or '
            f'a list of {num_stages}, one per stage.'
        )
    return per_stage


def check_frozen_stages(frozen_stages: int, num_stages: int) -> None:
    """Refuse a number of frozen stages that a backbone of `num_stages` does not know.

    Raises:
        SwinArgumentError: If it is no integer of -1..num_stages.
    """
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= num_stages:
        raise SwinArgumentError(
            f'SwinBackbone: frozen_stages={frozen_stages!r} must be -1 (none), 0 '
            f'(patch embedding) or 1..{num_stages} (that many stages too).'
        )


def check_numbers(positive: dict[str, Any], fractions: dict[str, Any]) -> None:
    """Refuse arguments that are no single positive number, or no number from 0 to 1.

    Raises:
        SwinArgumentError: Naming the first of them.
    """
    for name, value in positive.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 < value < math.inf:
            raise SwinArgumentError(f'SwinBackbone: {name}={value!r} must be a positive number.')
    for name, value in fractions.items():
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
            raise SwinArgumentError(f'SwinBackbone: {name}={value!r} must lie in [0, 1].')
