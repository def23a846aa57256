"""Writes a model as one ONNX file that needs neither PyTorch nor mmdet."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.config import Config

from swin_ext.checkpoint.model_file import BOXED, ModelFile, read_model_file
from swin_ext.inference.export.suppression import to_onnx
from swin_ext.inference.export.two_stage import TwoStageForward
from swin_ext.inference.mmdet_model import build_network
from swin_ext.inference.model import ModelError
from swin_ext.inference.onnx_model import INPUTS, METADATA_KEY, OUTPUTS, OnnxSettings
from swin_ext.utils.files import replacing
from swin_ext.utils.optional import require

MAX_BATCH = 1024
MAX_SIDE = 4096  # pixels
OPSET = 18


def export_onnx(path: str | os.PathLike | None, target: str | os.PathLike) -> Path:
    """Export a Mask R-CNN, for batches and images of any size.

    Args:
        path: As of `load_model`.
        target: `.onnx`.

    Returns:
        `target`.

    Raises:
        ModelError: If the model is of a kind that cannot be exported, or `target` has another
            suffix.
        CheckpointError, WeightFileNotFoundError: As `load_model`.
        MissingPackageError: If onnx or onnxscript is not installed.
    """
    target = Path(target)
    if target.suffix != '.onnx':
        raise ModelError(f'{target} must be named .onnx.')
    for package in ('onnx', 'onnxscript'):
        require(package, 'Exporting to ONNX')
    file = read_model_file(BOXED if path is None else path)
    cfg = Config(file.config)
    detector = build_network(cfg, file).eval()
    forward = TwoStageForward(detector, file.name).eval()
    settings = settings_of(file, cfg)
    program = torch.onnx.export(
        traced(forward, settings.pad_divisor),
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        opset_version=OPSET,
        custom_translation_table={torch.ops.swin_ext.grouped_nms.default: to_onnx},
        verbose=False,
    )
    model = program.model_proto
    model.metadata_props.add(key=METADATA_KEY, value=settings.to_json())
    with replacing(target) as out:
        out.write(model.SerializeToString())
    return target


def traced(forward: TwoStageForward, divisor: int) -> torch.export.ExportedProgram:
    """The graph, with the number of images and their size left open."""
    Dim = torch.export.Dim
    height, width = (Dim(name, min=1, max=MAX_SIDE // divisor) for name in ('height', 'width'))
    batch = {0: Dim('batch', min=1, max=MAX_BATCH), 2: divisor * height, 3: divisor * width}
    # PyTorch takes a length of 1 for a fixed one: the last map of a Swin (a 32nd of the image) must
    # have more than one window of 7 along each side.
    rows, columns = 8, 15
    images = torch.zeros(2, 3, rows * divisor, columns * divisor)
    size = torch.tensor([float(rows), float(columns)]) * divisor
    arguments = (images, size, torch.zeros(1), torch.ones(1))
    with torch.no_grad():
        return torch.export.export(
            forward,
            arguments,
            dynamic_shapes=(batch, None, None, None),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def settings_of(file: ModelFile, cfg: Config) -> OnnxSettings:
    """What goes with the graph.

    Raises:
        ModelError: If images come to the model in a way that cannot be written down.
    """
    pipeline = cfg.test_dataloader.dataset.pipeline
    kinds = [transform.type.rpartition('.')[2] for transform in pipeline]
    resize = pipeline[1] if len(pipeline) > 1 else {}
    if kinds[1:] != ['Resize', 'PackDetInputs'] or set(resize) - {'type', 'scale', 'keep_ratio'}:
        raise ModelError(
            f'{file.name}: images are prepared by {kinds}; what can be exported is a loader, '
            'Resize(scale, keep_ratio=True) and PackDetInputs.'
        )
    if not resize.get('keep_ratio'):
        raise ModelError(f'{file.name}: Resize without keep_ratio=True cannot be exported.')
    inputs = cfg.model.data_preprocessor
    rcnn = cfg.model.test_cfg.rcnn
    return OnnxSettings(
        classes=file.classes,
        preprocessing=file.preprocessing.to_dict(),
        version=file.version,
        figures=file.figures,
        score_threshold=float(rcnn.score_thr),
        nms_threshold=float(rcnn.nms.iou_threshold),
        mask_threshold=float(rcnn.mask_thr_binary),
        image_scale=tuple(resize.scale),
        mean=tuple(inputs.mean),
        std=tuple(inputs.std),
        rgb=bool(inputs.get('bgr_to_rgb')),
        pad_divisor=int(inputs.get('pad_size_divisor', 1)),
    )
