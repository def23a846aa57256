"""What of the config of a training is needed to use its model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from swin_ext.checkpoint.safe_reading import CheckpointError

PACKAGE = 'swin_ext'
LOADER = 'LoadCMRImage'


def inference_config(run: Mapping[str, Any], preprocessing: Mapping, classes: list[str]) -> str:
    """Text of a config with the model and the images' way to it; no data, no paths, no training.

    mmdet's `DetInferencer` and `inference_detector` take it as it is: `LoadImageFromFile` stands
    at the beginning of its pipeline, as they ask for, and reads through `CMRImageBackend`.

    Args:
        run: The finalised config.
        preprocessing: From source files to the network, as of `Preprocessing.to_dict`.
        classes: In the order of the labels.

    Raises:
        CheckpointError: If `run` has no model, or says nothing of the images that it is tested on.
    """
    if 'model' not in run:
        raise CheckpointError('The training was not built from a config: give the runner one.')
    config = dict(
        default_scope=run.get('default_scope') or 'mmdet',
        custom_imports=_imports(run.get('custom_imports')),
        model=copy.deepcopy(run['model']),
        test_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(
                type='CMRDataset',
                metainfo=dict(classes=tuple(classes)),
                lazy_init=True,  # there are no annotations
                test_mode=True,
                pipeline=_pipeline(run, preprocessing),
            ),
        ),
        visualizer=dict(
            type='DetLocalVisualizer',
            vis_backends=[dict(type='LocalVisBackend')],
            name='visualizer',
        ),
    )
    backbone = config['model'].get('backbone')
    if isinstance(backbone, dict):
        backbone['init_cfg'] = None  # its weights are in the file
    return Config(config).pretty_text


def _imports(imports: Any) -> dict:
    """The run's own imports, and this package's, without which its types are unknown."""
    names = (imports or {}).get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    return dict(
        imports=names if PACKAGE in names else [*names, PACKAGE], allow_failed_imports=False
    )


def _pipeline(run: Mapping, preprocessing: Mapping) -> list[dict]:
    for loader in ('test_dataloader', 'val_dataloader'):
        dataset = (run.get(loader) or {}).get('dataset') or {}
        while isinstance(dataset.get('dataset'), dict):  # inside a wrapper
            dataset = dataset['dataset']
        if dataset.get('pipeline'):
            break
    else:
        raise CheckpointError(
            'The config of the training has no test_dataloader or val_dataloader whose data set '
            'has a pipeline: how the model is to see images is unknown.'
        )
    pipeline = []
    for transform in dataset['pipeline']:
        kind = str(transform['type']).rpartition('.')[2]
        if kind == LOADER:
            transform = dict(
                type='LoadImageFromFile',
                color_type='unchanged',
                backend_args=dict(backend='CMRImageBackend', preprocessing=dict(preprocessing)),
            )
        if not kind.endswith('LoadAnnotations'):
            pipeline.append(copy.deepcopy(transform))
    return pipeline
