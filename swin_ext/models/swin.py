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

from swin_ext.checkpoint.weight_files import read_checkpoint
from swin_ext.models.architectures import (
    ARCHITECTURES,
    SwinArgumentError,
    check_frozen_stages,
    check_numbers,
    one_per_stage,
    resolve_arch,
)
from swin_ext.models.attention.dispatch import IMPLEMENTATIONS
from swin_ext.models.blocks import SwinBlock, SwinStage
from swin_ext.models.layers import PatchEmbed, PatchMerging
from swin_ext.models.swin_v2 import PatchMergingV2, SwinBlockV2
from swin_ext.models.weights.fitting import match_to_model
from swin_ext.models.weights.swin import convert_swin_state_dict
from swin_ext.utils.download import fetch_once

__all__ = ['ARCHITECTURES', 'SwinBackbone']


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
        attn_impl: 'eager', 'sdpa', 'triton', or 'auto' for the fastest on the GPU at hand, which is
            measured; on a CPU 'eager'. 'triton' is for CUDA; what it does not serve is left to
            'auto', with the reason in the log. See docs/kernels.md.
        with_cp: Recompute block activations in the backward pass to save memory.

    Raises:
        SwinArgumentError: On an impossible `arch`, `window_size`, `out_indices`, `frozen_stages` or
            `attn_impl`, a size or rate out of its range, or an argument that is for the other
            version.

    Attributes:
        channels_last: Whether maps are returned as they are in memory instead of as contiguous
            copies; see `use_channels_last`.

    Example:
        >>> backbone = SwinBackbone(arch='tiny')
        >>> [tuple(map.shape) for map in backbone(torch.rand(1, 3, 200, 300))]
        [(1, 96, 50, 75), (1, 192, 25, 38), (1, 384, 13, 19), (1, 768, 7, 10)]
    """

    channels_last = False

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
            raise SwinArgumentError(
                f'SwinBackbone: out_indices={tuple(out_indices)} must name stages '
                f'of 0..{num_stages - 1}.'
            )
        check_frozen_stages(frozen_stages, num_stages)
        check_numbers(
            dict(patch_size=patch_size, pretrain_img_size=pretrain_img_size, mlp_ratio=mlp_ratio),
            dict(drop_rate=drop_rate, attn_drop_rate=attn_drop_rate, drop_path_rate=drop_path_rate),
        )
        if attn_impl not in ('auto', *IMPLEMENTATIONS):
            raise SwinArgumentError(
                f'SwinBackbone: unknown attn_impl {attn_impl!r}; choose auto, '
                f'{", ".join(IMPLEMENTATIONS)}.'
            )
        if is_v2 and qk_scale is not None:
            raise SwinArgumentError(
                f'SwinBackbone: qk_scale={qk_scale} is for Swin V1: V2 learns the '
                'scale of its attention. Remove it.'
            )
        if not is_v2 and pretrained_window_sizes is not None:
            raise SwinArgumentError(
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
            SwinArgumentError: If there are not as many stages.
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
            SwinArgumentError: If `init_cfg` is another one.
            SwinWeightsError: If the file has no Swin, or one of another architecture.
        """
        if init_cfg.get('type') != 'Pretrained' or 'checkpoint' not in init_cfg:
            raise SwinArgumentError(
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
                    out = getattr(self, f'norm{i}')(x).permute(0, 3, 1, 2)
                    outs.append(out if self.channels_last else out.contiguous())
                if stage.downsample is not None:
                    x = stage.downsample(x)
        return tuple(outs)
