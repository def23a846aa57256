"""One file is a model: weights, with the config, classes and preprocessing that they need.

`.pth` is what `BestCheckpointHook` writes: `state_dict` and `meta`. `.safetensors` is the same at
half the size, weights as float16 and `meta` in its header. `meta` has

==================  ==============================================================================
key                 what
==================  ==============================================================================
`cfg`               text of a config that builds the model and loads images for it, and nothing
                    else; mmdet's `init_detector` and `DetInferencer` take it as it is
`run_cfg`           text of the finalised config of the training
`dataset_meta`      `classes` in the order of the labels; `palette`, `preprocessing` of the images
`preprocessing`     of the pipeline, see `images.preprocessing`
`figures`           of the validation
`swin_ext_version`  of the package that wrote it
==================  ==============================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from swin_ext.checkpoint.config_text import read_config_text
from swin_ext.checkpoint.inference_config import inference_config
from swin_ext.checkpoint.matching import CONSTANTS
from swin_ext.checkpoint.safe_reading import CheckpointError
from swin_ext.checkpoint.weight_files import WeightFileNotFoundError, read_checkpoint
from swin_ext.images.preprocessing import Preprocessing, PreprocessingError
from swin_ext.utils.files import replacing
from swin_ext.utils.hashes import sha256_of
from swin_ext.utils.optional import import_optional
from swin_ext.version import __version__

BOX = Path(__file__).parents[1] / 'inference' / 'box'
SCHEME = 'swin_ext://'
BOXED = f'{SCHEME}cmr-nano'
HEADER_KEY = 'swin_ext'  # of the metadata of a safetensors file


@dataclass(frozen=True)
class ModelFile:
    """What such a file holds.

    Args:
        name: Of the file.
        sha256: Of the file.
        config: See `cfg` above, as a dict.
        classes: Label i is `classes[i]`.
        preprocessing: From the pixels of source files to what the network takes.
        version: Of swin_ext when it was written.
        figures: Of the validation.
        state_dict: float32 on the CPU.
    """

    name: str
    sha256: str
    config: dict[str, Any]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    version: str
    figures: dict[str, float]
    state_dict: dict[str, torch.Tensor]


def inference_meta(meta: Mapping, figures: Mapping[str, float]) -> dict[str, Any]:
    """`meta` of a file for inference, of plain values, from that of a checkpoint.

    A run that was not built from a config has none to give: its file has weights and classes, and
    `no_cfg` with the reason, with which `read_model_file` refuses it.
    """
    dataset_meta = meta.get('dataset_meta') or {}
    content = dict(
        dataset_meta={
            key: _plain(dataset_meta[key])
            for key in ('classes', 'palette', 'preprocessing')  # not the path of the annotations
            if dataset_meta.get(key) is not None
        },
        figures={str(key): float(value) for key, value in figures.items()},
        swin_ext_version=__version__,
        **{
            key: _plain(meta[key])
            for key in ('preprocessing', 'epoch', 'iter', 'seed', 'time', 'mmengine_version')
            if meta.get(key) is not None
        },
    )
    try:
        content['cfg'] = inference_config(
            read_config_text(meta.get('cfg') or '', 'the checkpoint'),
            source_preprocessing(content).to_dict(),
            content['dataset_meta'].get('classes') or (),
        )
    except CheckpointError as error:
        content['no_cfg'] = str(error)
    content['run_cfg'] = meta.get('cfg')
    return content


def read_model_file(path: str | os.PathLike) -> ModelFile:
    """Read a model from `.pth` or `.safetensors`, without running code from it.

    A checkpoint of this package that is no file for inference yet is taken as one.

    Args:
        path: Of a file, or `swin_ext://cmr-nano`.

    Raises:
        WeightFileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, has no config or names no classes.
    """
    path = boxed_path(path) if str(path).startswith(SCHEME) else Path(path).expanduser()
    content = read_weights(path)
    meta = content.get('meta')
    if not isinstance(meta, dict) or not isinstance(content.get('state_dict'), dict):
        raise CheckpointError(
            f'{path} has weights, but not the config and classes that make them a model. Give '
            'inference_*.pth, which a training leaves in its work_dir.'
        )
    if 'swin_ext_version' not in meta:
        meta = inference_meta(meta, {})
    classes = tuple(meta['dataset_meta'].get('classes') or ())
    if not classes:
        raise CheckpointError(
            f'{path} names no classes. Train on a data set that does: CMRDataset.'
        )
    if 'cfg' not in meta:
        raise CheckpointError(f'{path} cannot say what its weights are of. {meta.get("no_cfg")}')
    return ModelFile(
        name=path.name,
        sha256=sha256_of(path),
        config=read_config_text(meta['cfg'], str(path)),
        classes=classes,
        preprocessing=source_preprocessing(meta),
        version=meta['swin_ext_version'],
        figures=dict(meta['figures']),
        state_dict=content['state_dict'],
    )


def read_weights(path: str | os.PathLike) -> dict[str, Any]:
    """`state_dict` and `meta` of a `.safetensors` file of this package; else `read_checkpoint`."""
    content = read_checkpoint(path)
    if Path(path).suffix != '.safetensors':
        return content
    safetensors = import_optional('safetensors', f'Reading {path}')
    with safetensors.safe_open(path, framework='pt') as file:
        header = file.metadata() or {}
    if HEADER_KEY not in header:
        return dict(state_dict=content)
    return dict(
        state_dict={key: _as_float32(tensor) for key, tensor in content.items()},
        meta=json.loads(header[HEADER_KEY]),
    )


def write_model(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Write a model as safetensors: weights as float16, all that goes with them in the header.

    The training's config is left out, as it may hold paths.

    Args:
        source: `inference_*.pth` or another checkpoint of this package.
        target: `.safetensors`.

    Returns:
        `target`.

    Raises:
        WeightFileNotFoundError, CheckpointError: As `read_model_file`; also if a weight is too
            large for float16, or `target` has another suffix.
    """
    target = Path(target)
    if target.suffix != '.safetensors':
        raise CheckpointError(f'{target} must be named .safetensors.')
    read_model_file(source)  # that it is whole
    content = read_weights(source)
    meta = content['meta']
    if 'swin_ext_version' not in meta:
        meta = inference_meta(meta, {})
    header = {key: value for key, value in meta.items() if key != 'run_cfg'}
    # Constants follow from the config; a model makes its own.
    tensors = {
        key: _as_float16(key, tensor, source).contiguous().clone()
        for key, tensor in content['state_dict'].items()
        if not key.endswith(CONSTANTS)
    }
    save = import_optional('safetensors.torch', f'Writing {target}').save
    with replacing(target) as file:
        file.write(save(tensors, {HEADER_KEY: json.dumps(header), 'format': 'pt'}))
    return target


def boxed_path(name: str) -> Path:
    """The file of a model that comes with the package.

    Args:
        name: `swin_ext://cmr-nano`.

    Raises:
        WeightFileNotFoundError: If there is none of this name.
    """
    path = BOX / f'{name[len(SCHEME) :]}.safetensors'
    if path.parent != BOX or not path.is_file():
        there = [f'{SCHEME}{file.stem}' for file in sorted(BOX.glob('*.safetensors'))]
        raise WeightFileNotFoundError(
            f'No model {name} comes with this installation of swin_ext ({path} is absent; there '
            f'are: {", ".join(there) or "none"}). Install the package from its wheel, or give the '
            'file of a model that you trained.'
        )
    return path


def source_preprocessing(meta: Mapping) -> Preprocessing:
    """What leads from source files to the network: that of the conversion and the pipeline's.

    Raises:
        CheckpointError: If the file does not say it in a way that this version knows.
    """
    try:
        own = Preprocessing()
        if meta.get('preprocessing') is not None:
            own = Preprocessing.from_dict(meta['preprocessing'])
        earlier = (meta.get('dataset_meta') or {}).get('preprocessing')
        if earlier is None:
            return own
        both = own.after(Preprocessing.from_dict(earlier))
        # The converted files themselves, whose window is applied already.
        return replace(both, keep_8_bit=True) if own.window is None and both.window else both
    except PreprocessingError as error:
        raise CheckpointError(
            f'The preprocessing of the model was not understood: {error}'
        ) from error


def _plain(value: Any) -> Any:
    """Values without classes of MMEngine, which `torch.load` would ask for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.item() if hasattr(value, 'item') else value


def _as_float16(key: str, tensor: torch.Tensor, source: str | os.PathLike) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    half = tensor.half()
    if not torch.isfinite(half).all():
        raise CheckpointError(f'{source}: {key} has values that float16 cannot hold.')
    return half


def _as_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
