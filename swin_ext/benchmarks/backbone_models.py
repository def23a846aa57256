"""The Swin of this package and those of others, made to do the same work."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swin_ext.models.swin import SwinBackbone
from swin_ext.utils.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import ConfigDict

OWN = 'swin_ext'
PATCH, WINDOW = 4, 7
DETECTOR_CONFIG = Path(__file__).parents[1] / '.mim/configs/_base_/models/mask_rcnn_swin-s_fpn.py'


class UnequalWorkError(UserError, ValueError):
    """A peer that computes something else than ours."""


class DensePrediction(nn.Module):
    """A classifier's stages with what detection backbones have around them.

    Args:
        stages: Returns the (B, H, W, C) output of each stage, in a list or as values of a dict.
        channels: C of each stage.
    """

    def __init__(self, stages: nn.Module, channels: Sequence[int]):
        super().__init__()
        self.stages = stages
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        pad_h, pad_w = -x.shape[2] % PATCH, -x.shape[3] % PATCH
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        maps = self.stages(x)
        maps = maps.values() if isinstance(maps, dict) else maps
        return [norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in zip(self.norms, maps)]


def stage_channels(arch: dict) -> list[int]:
    return [arch['embed_dims'] * 2**i for i in range(len(arch['depths']))]


def build_mmdet(arch: dict, size: tuple[int, int]) -> nn.Module:
    from mmdet.models.backbones.swin import SwinTransformer

    return SwinTransformer(**arch, window_size=WINDOW, drop_path_rate=0.0)


def build_timm(arch: dict, size: tuple[int, int]) -> nn.Module:
    """For a fixed size, which lets timm make its attention masks beforehand."""
    import timm

    stages = timm.create_model(
        'swin_tiny_patch4_window7_224',
        features_only=True,
        img_size=tuple(-(-side // PATCH) * PATCH for side in size),
        embed_dim=arch['embed_dims'],
        depths=arch['depths'],
        num_heads=arch['num_heads'],
        always_partition=True,  # else maps smaller than a window get smaller windows
        drop_path_rate=0.0,
    )
    return DensePrediction(stages, stage_channels(arch))


def build_torchvision(arch: dict, size: tuple[int, int]) -> nn.Module:
    from torchvision.models.feature_extraction import create_feature_extractor
    from torchvision.models.swin_transformer import SwinTransformer

    model = SwinTransformer(
        patch_size=[PATCH, PATCH],
        window_size=[WINDOW, WINDOW],
        embed_dim=arch['embed_dims'],
        depths=list(arch['depths']),
        num_heads=list(arch['num_heads']),
        stochastic_depth_prob=0.0,
    )
    # features: patch embedding, then stages and patch mergings in turn
    nodes = [f'features.{2 * i + 1}' for i in range(len(arch['depths']))]
    return DensePrediction(create_feature_extractor(model, nodes), stage_channels(arch))


class HuggingFaceMaps(nn.Module):
    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(x).feature_maps


def build_hf(arch: dict, size: tuple[int, int]) -> nn.Module:
    from transformers import SwinBackbone as HuggingFaceSwin
    from transformers import SwinConfig

    backbone = HuggingFaceSwin(
        SwinConfig(
            image_size=size,
            patch_size=PATCH,
            window_size=WINDOW,
            embed_dim=arch['embed_dims'],
            depths=list(arch['depths']),
            num_heads=list(arch['num_heads']),
            drop_path_rate=0.0,
            out_features=[f'stage{i + 1}' for i in range(len(arch['depths']))],
        )
    )
    backbone.swin.layernorm = nn.Identity()  # the classifier's; no feature map depends on it
    return HuggingFaceMaps(backbone)


PEERS = {
    'mmdet': build_mmdet,
    'timm': build_timm,
    'torchvision': build_torchvision,
    'hf': build_hf,
}
PACKAGES = {'mmdet': 'mmdet', 'timm': 'timm', 'torchvision': 'torchvision', 'hf': 'transformers'}


def find_missing(peers: Sequence[str]) -> dict[str, str]:
    """Reason for each peer whose package cannot be imported."""
    missing = {}
    for peer in peers:
        try:
            importlib.import_module(PACKAGES[peer])
        except ImportError as error:
            missing[peer] = f'{PACKAGES[peer]} cannot be imported ({error})'
    return missing


def check_same_work(name: str, peer: nn.Module, own: nn.Module, images: Tensor) -> None:
    """Compare a peer with ours before any time is taken.

    Raises:
        UnequalWorkError: If parameter counts or shapes of the maps differ.
    """
    with torch.no_grad():
        found, expected = (
            (sum(p.numel() for p in model.parameters()), [tuple(x.shape) for x in model(images)])
            for model in (peer, own)
        )
    for what, a, b in zip(('parameters', 'maps of shape'), found, expected):
        if a != b:
            raise UnequalWorkError(
                f'{name} has {a} {what}, SwinBackbone {b}, for images {tuple(images.shape)}: they '
                f'do not do the same work. Install another version of it or leave it out of '
                '--peers.'
            )


def build_backbones(
    peers: Sequence[str], arch: dict, images: Tensor, attn_impls: Sequence[str] = ()
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """Build ours and the peers for images of one size.

    Args:
        attn_impls: Implementations of the attention to build ours with once more each.

    Returns:
        Models in training mode on the images' device, ours first, and for each peer that cannot
        process such images the reason.

    Raises:
        UnequalWorkError: See `check_same_work`.
    """
    own = SwinBackbone(arch=arch, window_size=WINDOW, drop_path_rate=0.0).to(images.device)
    models, failures = {OWN: own}, {}
    for impl in attn_impls:
        models[f'{OWN} {impl}'] = SwinBackbone(
            arch=arch, window_size=WINDOW, drop_path_rate=0.0, attn_impl=impl
        ).to(images.device)
    for name in peers:
        try:
            peer = PEERS[name](arch, tuple(images.shape[2:])).to(images.device)
            with torch.no_grad():
                peer(images)
        except Exception as error:  # of whatever kind: the table tells it
            failures[name] = in_one_line(error)
            continue
        check_same_work(name, peer, own, images)
        models[name] = peer
    return models, failures


def build_detectors(arch: dict, device: torch.device) -> dict[str, nn.Module]:
    """Mask R-CNNs of the same weights around our backbone and mmdet's."""
    from mmengine.registry import MODELS, DefaultScope

    backbones = {OWN: None, 'mmdet': dict(type='SwinTransformer', **arch)}
    with DefaultScope.overwrite_default_scope('mmdet'):
        detectors = {
            name: MODELS.build(detector_config(arch, backbone)).to(device)
            for name, backbone in backbones.items()
        }
    detectors['mmdet'].load_state_dict(detectors[OWN].state_dict())
    return detectors


def detector_config(arch: dict, backbone: dict | None = None) -> ConfigDict:
    """The config of a Mask R-CNN around our backbone, or another one of the same architecture."""
    from mmengine.config import Config

    cfg = Config.fromfile(DETECTOR_CONFIG).model
    cfg.neck.in_channels = stage_channels(arch)
    cfg.backbone = dict(
        backbone or dict(type='SwinBackbone', arch=arch), window_size=WINDOW, drop_path_rate=0.0
    )
    return cfg


def make_raw_batch(batch: int, size: tuple[int, int]) -> dict:
    """What a data loader gives: images of (H, W) px on the host with ten random objects each."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(batch, (3, *size), num_items=[10] * batch, with_mask=True)


def make_detector_batch(detector: nn.Module, batch: int, size: tuple[int, int]) -> dict:
    """The same, preprocessed."""
    return detector.data_preprocessor(make_raw_batch(batch, size), training=True)


def in_one_line(error: Exception) -> str:
    """One line for a table."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]
