"""Swin Transformer backbone.

Paper: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows",
https://arxiv.org/abs/2103.14030. Computes the same function as mmdet 3.3's `SwinTransformer`
(itself Microsoft's detection code) under the same parameter names.

Swin V2 is the same backbone of other blocks and mergings, those of `swin_v2`.

Feature maps travel channels-last, (B, H, W, C), from the patch embedding to the output norms.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.model.weight_init import trunc_normal_
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from swin_ext.checkpoint.weight_files import read_checkpoint
from swin_ext.models.attention.windows import (
    IMPLEMENTATIONS,
    PositionBiasCache,
    WindowGrid,
    from_windows,
    is_traced,
    to_windows,
    window_attention,
)
from swin_ext.models.weights.swin import convert_swin_state_dict, match_to_model
from swin_ext.utils.download import fetch_once

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
        ValueError: If the name or the version is unknown, a key is missing or unknown, the lengths
            of `depths` and `num_heads` differ, or a stage's width does not divide by its heads.
    """
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'SwinBackbone: unknown arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)} or give a dict with embed_dims, depths '
                'and num_heads.'
            )
        return {'version': 1, **ARCHITECTURES[arch]}
    if set(arch) - {'version'} != {'embed_dims', 'depths', 'num_heads'}:
        raise ValueError(
            'SwinBackbone: a custom arch needs exactly the keys embed_dims, depths '
            'and num_heads, and version=2 for Swin V2, '
            f'but has {sorted(arch)}.'
        )
    arch = {'version': 1, **arch}
    if arch['version'] not in (1, 2):
        raise ValueError(
            f'SwinBackbone: there is no Swin of version {arch["version"]!r}, but 1 and 2.'
        )
    if len(arch['depths']) != len(arch['num_heads']):
        raise ValueError(
            'SwinBackbone: depths and num_heads must have one entry per stage, but '
            f'are {tuple(arch["depths"])} and {tuple(arch["num_heads"])}.'
        )
    for i, heads in enumerate(arch['num_heads']):
        if arch['embed_dims'] * 2**i % heads:
            raise ValueError(
                f'SwinBackbone: stage {i} has {arch["embed_dims"] * 2**i} channels, '
                f'which do not divide into {heads} heads.'
            )
    return arch


def one_per_stage(name: str, sizes: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    """Repeat one window size for each stage, or check that there is one for each.

    Raises:
        ValueError: If a size is no number of tokens, or their number is not that of the stages.
    """
    per_stage = (sizes,) * num_stages if isinstance(sizes, int) else tuple(sizes)
    if len(per_stage) != num_stages or not all(isinstance(w, int) and w > 0 for w in per_stage):
        raise ValueError(
            f'SwinBackbone: {name}={sizes!r} must be a positive number of tokens, or '
            f'a list of {num_stages}, one per stage.'
        )
    return per_stage


def check_frozen_stages(frozen_stages: int, num_stages: int) -> None:
    """Refuse a number of frozen stages that a backbone of `num_stages` does not know.

    Raises:
        ValueError: If it is no integer of -1..num_stages.
    """
    if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= num_stages:
        raise ValueError(
            f'SwinBackbone: frozen_stages={frozen_stages!r} must be -1 (none), 0 '
            f'(patch embedding) or 1..{num_stages} (that many stages too).'
        )


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Zero-pad (B, H, W, C) at the bottom and right so that `multiple` divides H and W."""
    pad_h, pad_w = -x.shape[1] % multiple, -x.shape[2] % multiple
    if pad_h or pad_w:
        x = F.pad(x, (0, 0, 0, pad_w, 0, pad_h))
    return x


def relative_position_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens of a window, int64 of shape (N, N)."""
    axis = torch.arange(window)
    y, x = axis.repeat_interleave(window), axis.repeat(window)  # (N,) each
    dy, dx = y[:, None] - y[None, :], x[:, None] - x[None, :]  # (N, N), -(window-1)..window-1
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


def gather_position_bias(table: Tensor, index: Tensor) -> Tensor:
    """Spread a bias per offset, (M, nH), over pairs of tokens: (nH, N, N)."""
    bias = table[index.flatten()].view(*index.shape, -1)  # (N, N, nH)
    return bias.permute(2, 0, 1).contiguous()


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


class WindowAttention(nn.Module):
    """Multi-head self-attention with relative position bias inside each window.

    Args:
        attn_impl: Key of `window_attention.IMPLEMENTATIONS`, or 'auto'.
    """

    def __init__(
        self, dim, num_heads, window, qkv_bias, qk_scale, attn_drop_rate, proj_drop_rate, attn_impl
    ):
        super().__init__()
        self.num_heads = num_heads
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.attn_drop_rate = attn_drop_rate
        self.attn_impl = attn_impl
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window - 1) ** 2, num_heads)
        )
        self.register_buffer('relative_position_index', relative_position_index(window))
        self.qkv = nn.Linear(dim, dim * 3, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self._bias_cache = PositionBiasCache()

    def position_bias(self) -> Tensor:
        """Relative position bias, (nH, N, N)."""
        table, index = self.relative_position_bias_table, self.relative_position_index
        return self._bias_cache.get([table], lambda: gather_position_bias(table, index))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        Args:
            x: (B * nW, N, C).
            mask: (nW, 1, N, N), added to the logits.

        Returns:
            (B * nW, N, C).
        """
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, C // self.num_heads)
        x = window_attention(
            qkv,
            self.position_bias(),
            mask,
            self.scale,
            self.attn_drop_rate if self.training else 0.0,
            self.attn_impl,
        )
        return self.proj_drop(self.proj(x.reshape(B, N, C)))


class ShiftedWindowAttention(nn.Module):
    """Cut the map into windows, attend, and put it together again."""

    def __init__(self, w_msa: nn.Module):
        super().__init__()
        self.w_msa = w_msa

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        windows = self.w_msa(to_windows(x, grid), grid.mask)
        return from_windows(windows, grid, *x.shape[:3])


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


class SwinBlock(nn.Module):
    attention_class = WindowAttention

    def __init__(
        self,
        dim,
        num_heads,
        window,
        mlp_ratio,
        drop_rate,
        drop_path_rate,
        with_cp,
        **attention_kwargs,
    ):
        super().__init__()
        self.with_cp = with_cp
        self.norm1 = nn.LayerNorm(dim)
        self.attn = ShiftedWindowAttention(
            self.attention_class(
                dim, num_heads, window, proj_drop_rate=drop_rate, **attention_kwargs
            )
        )
        self.norm2 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, int(mlp_ratio * dim), drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def init_weights(self) -> None:
        """Initialise what is no linear layer."""
        trunc_normal_(self.attn.w_msa.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor, grid: WindowGrid) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.with_cp and self.training and torch.is_grad_enabled():
            return checkpoint(self._forward, x, grid, use_reentrant=False)
        return self._forward(x, grid)

    def _forward(self, x, grid):
        x = self.drop_path(self.attn(self.norm1(x), grid), x)
        return self.drop_path(self.ffn(self.norm2(x)), x)


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


class SwinStage(nn.Module):
    """Blocks on one resolution, every second one with shifted windows, then a downsampling."""

    def __init__(
        self,
        block_class,
        dim,
        window,
        shift_single_window,
        drop_path_rates,
        downsample,
        **block_kwargs,
    ):
        super().__init__()
        self.window = window
        self.shift_single_window = shift_single_window
        self.blocks = nn.ModuleList(
            block_class(dim=dim, window=window, drop_path_rate=rate, **block_kwargs)
            for rate in drop_path_rates
        )
        self.downsample = downsample
        self._grids_cache = None  # (key, grids)

    def _shift(self, size: int) -> int:
        """Tokens to shift by along a side of the map that is `size` tokens long."""
        return self.window // 2 if size > self.window or self.shift_single_window else 0

    def window_grids(self, x: Tensor) -> tuple[WindowGrid, WindowGrid]:
        """Grids of the plain and of the shifted blocks; made once for a run of equal sizes."""
        H, W = x.shape[1:3]
        key = H, W, x.dtype, x.device
        if is_traced() or self._grids_cache is None or self._grids_cache[0] != key:
            grids = tuple(
                WindowGrid(H, W, self.window, shift, like=x)
                for shift in ((0, 0), (self._shift(H), self._shift(W)))
            )
            if is_traced():
                return grids
            self._grids_cache = key, grids
        return self._grids_cache[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); downsampling is left to the caller, who needs both."""
        grids = self.window_grids(x)
        for j, block in enumerate(self.blocks):
            x = block(x, grids[j % 2])
        return x


@MODELS.register_module()
class SwinBackbone(BaseModule):
    """Swin Transformer for dense prediction: one normed feature map per stage.

    Parameter names and numbers of V1 are those of mmdet 3.3's `SwinTransformer`, so state dicts of
    either load into the other. Images of any size are taken; maps are padded inside.

    Args:
        arch: 'tiny', 'small', 'base' or 'large', the same but the last with 'v2-' in front for
            Swin V2, or a dict with `embed_dims` (channels of the first stage, doubled at each
            further one), `depths` and `num_heads` (one entry per stage) for another size, and
            `version=2` for V2.
        window_size: Side of an attention window in tokens, for all stages or for each; by default
            7, and 8 for V2.
        shift_single_window: Whether windows shift along a side of the map that is no longer than
            a window. There they do in mmdet (the default for V1), and do not in timm, torchvision
            and Hugging Face (the default for V2), so that a classifier's last stage at its own
            image size is exact with False.
        pretrained_window_sizes: For V2, the `window_size` that weights were trained with, where
            another one is used now: position biases of old offsets stay what they were. Weights
            of a window of 16 trained at 256 px have 8 in the last stage, whose map was 8 x 8.
        qk_scale: Of V1; V2 learns its own.
        out_indices: Stages whose output is returned.
        drop_path_rate: Stochastic depth of the last block; rises linearly from 0 at the first.
        use_abs_pos_embed: Add a learned position embedding of `pretrain_img_size`, resized
            bicubically to the size of the map.
        frozen_stages: -1 trains everything, 0 freezes the patch embedding, n = 1..4 the first n
            stages too.
        attn_impl: 'eager', 'sdpa', or 'auto' for the faster on the device at hand.
        with_cp: Recompute block activations in the backward pass to save memory.

    Raises:
        ValueError: On an impossible `arch`, `window_size`, `out_indices`, `frozen_stages` or
            `attn_impl`, or an argument that is for the other version.

    Example:
        >>> backbone = SwinBackbone(arch='tiny')
        >>> [tuple(map.shape) for map in backbone(torch.rand(1, 3, 200, 300))]
        [(1, 96, 50, 75), (1, 192, 25, 38), (1, 384, 13, 19), (1, 768, 7, 10)]
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        in_channels: int = 3,
        patch_size: int = 4,
        window_size: int | Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        out_indices: tuple[int, ...] = (0, 1, 2, 3),
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        patch_norm: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        use_abs_pos_embed: bool = False,
        pretrain_img_size: int = 224,
        frozen_stages: int = -1,
        attn_impl: str = 'auto',
        with_cp: bool = False,
        shift_single_window: bool | None = None,
        pretrained_window_sizes: int | Sequence[int] | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(init_cfg)
        arch = resolve_arch(arch)
        depths, num_heads, is_v2 = arch['depths'], arch['num_heads'], arch['version'] == 2
        num_stages = len(depths)
        if not out_indices or not set(out_indices) <= set(range(num_stages)):
            raise ValueError(
                f'SwinBackbone: out_indices={tuple(out_indices)} must name stages '
                f'of 0..{num_stages - 1}.'
            )
        check_frozen_stages(frozen_stages, num_stages)
        if attn_impl not in ('auto', *IMPLEMENTATIONS):
            raise ValueError(
                f'SwinBackbone: unknown attn_impl {attn_impl!r}; choose auto, '
                f'{", ".join(IMPLEMENTATIONS)}.'
            )
        if is_v2 and qk_scale is not None:
            raise ValueError(
                f'SwinBackbone: qk_scale={qk_scale} is for Swin V1: V2 learns the '
                'scale of its attention. Remove it.'
            )
        if not is_v2 and pretrained_window_sizes is not None:
            raise ValueError(
                f'SwinBackbone: pretrained_window_sizes={pretrained_window_sizes} is '
                'for Swin V2: the bias tables of V1 are resized when they are loaded. '
                'Remove it.'
            )
        if window_size is None:
            window_size = 8 if is_v2 else 7
        windows = one_per_stage('window_size', window_size, num_stages)
        pretrained_windows = (
            windows
            if pretrained_window_sizes is None
            else one_per_stage('pretrained_window_sizes', pretrained_window_sizes, num_stages)
        )
        if shift_single_window is None:
            shift_single_window = not is_v2
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.num_features = [arch['embed_dims'] * 2**i for i in range(num_stages)]

        self.patch_embed = PatchEmbed(in_channels, self.num_features[0], patch_size, patch_norm)
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            self.pos_embed_side = pretrain_img_size // patch_size
            self.absolute_pos_embed = nn.Parameter(
                torch.zeros(1, self.pos_embed_side**2, self.num_features[0])
            )
        self.drop_after_pos = nn.Dropout(drop_rate)

        last = max(sum(depths) - 1, 1)
        drop_path_rates = [drop_path_rate * j / last for j in range(sum(depths))]
        block_class, merging_class = SwinBlock, PatchMerging
        if is_v2:
            # Not at the top of the file: V2 is made of the classes above.
            from swin_ext.models.swin_v2 import PatchMergingV2, SwinBlockV2

            block_class, merging_class = SwinBlockV2, PatchMergingV2
        self.stages = nn.ModuleList()
        for i, dim in enumerate(self.num_features):
            start = sum(depths[:i])
            of_version = (
                dict(pretrained_window=pretrained_windows[i]) if is_v2 else dict(qk_scale=qk_scale)
            )
            self.stages.append(
                SwinStage(
                    block_class,
                    dim,
                    windows[i],
                    shift_single_window,
                    drop_path_rates[start : start + depths[i]],
                    downsample=merging_class(dim, patch_norm) if i < num_stages - 1 else None,
                    num_heads=num_heads[i],
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    with_cp=with_cp,
                    qkv_bias=qkv_bias,
                    attn_drop_rate=attn_drop_rate,
                    attn_impl=attn_impl,
                    **of_version,
                )
            )
        for i in self.out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(self.num_features[i]))

        # Here and not in train(): DDP lists the trainable parameters when it wraps the model,
        # which is before train() (open-mmlab/mmdetection#8208, #12345).
        for part in self._frozen_parts():
            part.requires_grad_(False)

    def _frozen_parts(self) -> list:
        """The parameters and modules that `frozen_stages` keeps as they are."""
        if self.frozen_stages < 0:
            return []
        parts = [self.patch_embed, self.drop_after_pos]
        if self.absolute_pos_embed is not None:
            parts.append(self.absolute_pos_embed)
        for i in range(self.frozen_stages):
            parts.append(self.stages[i])
            if i in self.out_indices:
                parts.append(getattr(self, f'norm{i}'))
        return parts

    def set_frozen_stages(self, frozen_stages: int) -> None:
        """Freeze as the argument of the same name does, and train all the rest.

        A `DistributedDataParallel` around the model has to be built anew, and the optimizer needs
        the thawed parameters; `BackboneFreezeHook` sees to both.

        Raises:
            ValueError: If there are not as many stages.
        """
        check_frozen_stages(frozen_stages, len(self.stages))
        for part in self._frozen_parts():
            part.requires_grad_(True)
        self.frozen_stages = frozen_stages
        for part in self._frozen_parts():
            part.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> SwinBackbone:
        """Set training mode, but for frozen stages, which stay in evaluation mode."""
        super().train(mode)
        for part in self._frozen_parts():
            if isinstance(part, nn.Module):
                part.eval()
        return self

    def init_weights(self) -> None:
        """Initialise as the reference does, or load what `init_cfg` names."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, SwinBlock):
                module.init_weights()
        if self.absolute_pos_embed is not None:
            trunc_normal_(self.absolute_pos_embed, std=0.02)
        if self.init_cfg is not None:
            self._load_pretrained(self.init_cfg)

    def _load_pretrained(self, init_cfg: dict) -> None:
        """Load weights of any origin, and account for every tensor in the log.

        Args:
            init_cfg: dict(type='Pretrained', checkpoint=PATH or http(s) address).

        Raises:
            ValueError: If `init_cfg` is another one.
            SwinWeightsError: If the file has no Swin, or one of another architecture.
        """
        if init_cfg.get('type') != 'Pretrained' or 'checkpoint' not in init_cfg:
            raise ValueError(
                "SwinBackbone: init_cfg must be dict(type='Pretrained', "
                f'checkpoint=...), but is {init_cfg}.'
            )
        path = fetch_once(init_cfg['checkpoint'])
        matched = match_to_model(convert_swin_state_dict(read_checkpoint(path)), self.state_dict())
        self.load_state_dict(matched.state_dict, strict=False)
        print_log(f'{path}: {matched.report()}', 'current')

    def _add_position_embedding(self, x: Tensor) -> Tensor:
        side, size = self.pos_embed_side, x.shape[1:3]
        embedding = self.absolute_pos_embed.view(1, side, side, -1).permute(0, 3, 1, 2)
        if size != (side, side):
            embedding = F.interpolate(embedding, size=size, mode='bicubic')
        return x + embedding.permute(0, 2, 3, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: Images (B, in_channels, H, W).

        Returns:
            For each stage i of `out_indices`, (B, embed_dims * 2**i, H / s, W / s), sizes
            rounded up, with s = patch_size * 2**i.
        """
        # A frozen stem or stage has nothing to learn: keep its activations out of the graph.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen_stages < 0):
            x = self.patch_embed(x)
            if self.absolute_pos_embed is not None:
                x = self._add_position_embedding(x)
            x = self.drop_after_pos(x)

        outs = []
        for i, stage in enumerate(self.stages):
            trainable = i >= self.frozen_stages
            with torch.set_grad_enabled(torch.is_grad_enabled() and trainable):
                x = stage(x)
                if i in self.out_indices:
                    outs.append(getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2).contiguous())
                if stage.downsample is not None:
                    x = stage.downsample(x)
        return tuple(outs)
