"""Convert Swin weights of any origin into a state dict for SwinBackbone.

    python tools/convert_swin_weights.py swin_small.safetensors checkpoints/swin_small.pth

The source may come from mmdet, Microsoft, timm, torchvision, Hugging Face or Mask2Former, as a
backbone, a classifier or a detector, of V1 or V2. Train from the result with

    --cfg-options model.backbone.init_cfg.type=Pretrained \\
        model.backbone.init_cfg.checkpoint=checkpoints/swin_small.pth

With --whole the heads come along, under the names of mmdet's or mmsegmentation's model: those of a
Mask R-CNN of torchvision, a Mask2Former of its authors, or any model of OpenMMLab.
"""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from swin_ext.utils.errors import UserError
from swin_ext.utils.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from swin_ext.models.swin import SwinBackbone
    from swin_ext.models.weights.swin import ConvertedWeights

RESNET = 'backbone.layer1.'  # how names in a backbone begin that needs no conversion
# Keys of `swin.ARCHITECTURES`, which takes seconds to import.
ARCHS = ['tiny', 'small', 'base', 'large', 'v2-tiny', 'v2-small', 'v2-base']


def build_backbone(
    converted: ConvertedWeights, arch: str | None, window_size: int | None
) -> SwinBackbone:
    """Build the model to fit the weights to: theirs, but for what the user asks for.

    Raises:
        SwinWeightsError: If a window size is asked for that weights of Swin V2 do not depend on.
    """
    from swin_ext.models.swin import SwinBackbone
    from swin_ext.models.weights.fitting import infer_architecture
    from swin_ext.models.weights.recognition import SwinWeightsError

    is_v2 = converted.format.endswith('-v2')
    if is_v2 and window_size is not None:
        raise SwinWeightsError(
            f'these are weights of Swin V2 ({converted.format} format), which has no position bias '
            'tables to resize: leave --window-size out, and give window_size (and '
            'pretrained_window_sizes) to SwinBackbone'
        )
    weights = converted.state_dict
    inferred = infer_architecture(weights)
    patches = weights['patch_embed.projection.weight']  # (embed_dims, channels, patch, patch)
    hidden = weights['stages.0.blocks.0.ffn.layers.0.0.weight']  # (mlp_ratio * dim, dim)
    position = weights.get('absolute_pos_embed')  # (1, side**2, embed_dims)
    pretrained = {}
    if position is not None:
        pretrained = dict(pretrain_img_size=round(position.shape[1] ** 0.5) * patches.shape[2])
    return SwinBackbone(
        arch=arch or inferred['arch'],
        in_channels=patches.shape[1],
        patch_size=patches.shape[2],
        window_size=window_size or inferred['window_size'],
        mlp_ratio=hidden.shape[0] / hidden.shape[1],
        qkv_bias=f'stages.0.blocks.0.attn.w_msa.{"q_bias" if is_v2 else "qkv.bias"}' in weights,
        patch_norm='patch_embed.norm.weight' in weights,
        use_abs_pos_embed=position is not None,
        **pretrained,
    )


def convert_backbone_alone(
    checkpoint: Mapping, arch: str | None, window_size: int | None
) -> tuple[dict[str, Tensor], str]:
    """State dict for `SwinBackbone`, and an account of it."""
    from swin_ext.models.weights.fitting import match_to_model
    from swin_ext.models.weights.swin import convert_swin_state_dict

    converted = convert_swin_state_dict(checkpoint)
    backbone = build_backbone(converted, arch, window_size)
    matched = match_to_model(converted, backbone.state_dict())
    return matched.state_dict, matched.report()


def convert_whole(
    checkpoint: Mapping, arch: str | None, window_size: int | None
) -> tuple[dict[str, dict], str]:
    """Checkpoint for a whole model, with the classes that the file names, and an account of it."""
    from swin_ext.models.weights.swin import convert_swin_state_dict
    from swin_ext.models.weights.whole_models import convert_backbone, convert_heads

    state_dict, notes = convert_heads(checkpoint)
    if arch or window_size or not any(key.startswith(RESNET) for key in state_dict):
        backbone = build_backbone(convert_swin_state_dict(state_dict), arch, window_size)
        state_dict, matched = convert_backbone(state_dict, backbone.state_dict())
        notes.append(matched.report())
    heads = sorted({key.partition('.')[0] for key in state_dict} - {'backbone'})
    notes.append(f'{len(state_dict)} tensors, of backbone, {", ".join(heads)}.')
    meta = {'meta': checkpoint['meta']} if 'meta' in checkpoint else {}
    return {'state_dict': state_dict, **meta}, '\n'.join(notes)


def parse_args(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('src', type=Path, help='.pth, .pt, .bin, .pkl or .safetensors file')
    parser.add_argument('dst', type=Path, help='.pth file to write')
    parser.add_argument(
        '--arch',
        choices=ARCHS,
        help='insist on this size (default: whatever the source has)',
    )
    parser.add_argument(
        '--window-size',
        type=int,
        metavar='TOKENS',
        help='resize the position bias tables of V1 for windows of this side',
    )
    parser.add_argument(
        '--whole',
        action='store_true',
        help="keep the heads, under the names of mmdet's or mmsegmentation's model",
    )
    parser.add_argument(
        '--hash',
        action='store_true',
        help='append the first 8 digits of the SHA-256 to the name of DST',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an existing DST')
    return parser, parser.parse_args(argv)


def main(argv: list[str] | None = None) -> Path:
    """Convert one file and return the path of the result."""
    parser, args = parse_args(argv)

    import torch

    from swin_ext.checkpoint.weight_files import read_checkpoint
    from swin_ext.models.weights.recognition import SwinWeightsError

    if args.window_size is not None and args.window_size < 1:
        parser.error(f'--window-size is {args.window_size}: it must be positive')
    dst = args.dst
    try:
        if not args.hash:  # else the name is not known yet
            check_absent(dst, args.overwrite)
        convert = convert_whole if args.whole else convert_backbone_alone
        converted, report = convert(read_checkpoint(args.src), args.arch, args.window_size)
        content = io.BytesIO()
        torch.save(converted, content)
        if args.hash:
            digest = hashlib.sha256(content.getbuffer()).hexdigest()
            dst = dst.with_name(f'{dst.stem}-{digest[:8]}{dst.suffix}')
            check_absent(dst, args.overwrite)
        with replacing(dst) as file:
            file.write(content.getbuffer())
    except (UserError, OSError, ImportError) as error:
        where = f'{args.src}: ' if isinstance(error, SwinWeightsError) else ''
        parser.error(f'{where}{error}')
    print(report)
    print(f'wrote {dst}')
    return dst


def check_absent(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise FileExistsError(f'{path} exists; give --overwrite to replace it')
