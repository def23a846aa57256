"""All that this package changes in upstream modules for the whole process, and why.

================================  ============================  ==================================
what                              read for                      why
================================  ============================  ==================================
`torch.load` and                  mmengine 0.10.4 to 0.10.7     https://github.com/open-mmlab/
`load_from_http` of                                             mmengine/issues/1655: loads without
`mmengine.runner.checkpoint`                                    `weights_only`, so runs any code;
                                                                and where the main process cannot
                                                                download, the others wait for it
what `mmseg.models` sees of       mmsegmentation 1.2.2          two heads import mmdet wherever it
mmdet                                                           is installed, which takes seconds
                                                                in each run of all other models
`Runner.from_cfg`                 mmsegmentation 1.2.2          `tools/test.py` does not look at
                                                                `runner_type`, as `tools/train.py`
                                                                does
================================  ============================  ==================================

The last two are made where a config imports `swin_ext.for_mmseg`, the first everywhere.

Anything that a subclass or a registered loader can reach is done there, not here.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from pathlib import Path
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from swin_ext.checkpoint.model_file import read_weights
from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.weight_files import WeightFileNotFoundError
from swin_ext.utils.download import DownloadError, fetch_once

_NOT_DOWNLOADED = """\
The checkpoint cannot be downloaded: {reason} Without network, download it elsewhere and \
give its path, e.g. --cfg-options load_from=/path/to/file.pth (or that of the `init_cfg` which \
names the URL), or train from scratch: --cfg-options load_from=None."""


def patch_mmengine() -> None:
    """Make every checkpoint that MMEngine reads be read safely.

    Covers local files, ``http(s)://``, ``s3://``, ``petrel://``, ``pavi://``, ``torchvision://``,
    ``open-mmlab://`` and ``mmcls://``, whether for ``load_from``, ``resume``, testing or
    ``init_cfg``. Calling it again changes nothing.
    """
    # The module uses `torch` for these three alone.
    mmengine_checkpoint.torch = types.SimpleNamespace(
        load=load_checkpoint_file, save=torch.save, distributed=torch.distributed
    )
    mmengine_checkpoint.load_from_http = load_from_http  # what the other schemes call
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        prefixes=('http://', 'https://'), loader=load_from_http, force=True
    )
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        prefixes='', loader=load_from_local, force=True
    )


def import_mmseg_without_mmdet() -> None:
    """Import mmseg's models as if mmdet were not installed, unless it is imported already.

    `Mask2FormerHead` and `MaskFormerHead` of mmseg, which derive from mmdet's, cannot be built in
    this process then. mmdet itself can be imported afterwards.
    """
    if 'mmdet' in sys.modules:
        return
    sys.modules['mmdet'] = None  # importing it raises ModuleNotFoundError, which mmseg expects
    try:
        importlib.import_module('mmseg.models')
    finally:
        del sys.modules['mmdet']


def respect_runner_type() -> None:
    """Let `Runner.from_cfg` build the runner that a config names; again, it changes nothing."""
    original = Runner.from_cfg.__func__
    if original is not _from_cfg:
        _from_cfg.original = original
        Runner.from_cfg = classmethod(_from_cfg)


def _from_cfg(cls: type[Runner], cfg: Any) -> Runner:
    if cls is Runner and cfg.get('runner_type'):
        return RUNNERS.get(cfg['runner_type']).from_cfg(cfg)
    return _from_cfg.original(cls, cfg)


def load_from_local(filename: str, map_location: Any) -> Any:
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise WeightFileNotFoundError(
            f"The checkpoint '{filename}' does not exist (working directory: {os.getcwd()}). "
            'Correct `load_from`, `init_cfg` or the checkpoint argument; on `--resume`, the path '
            'comes from the file `last_checkpoint` in the work_dir.'
        )
    return _read(path, map_location)


def load_from_http(
    filename: str, map_location: Any = None, model_dir: str | None = None, progress: bool = True
) -> Any:
    """Download as `fetch_once` does, and read safely.

    Raises:
        CheckpointError: On every rank.
    """
    try:
        path = fetch_once(filename, model_dir)
    except DownloadError as error:
        raise CheckpointError(_NOT_DOWNLOADED.format(url=filename, reason=error)) from error
    return _read(path, map_location)


def _read(path: str | os.PathLike, map_location: Any) -> Any:
    if Path(path).suffix in ('.safetensors', '.pkl'):  # the latter is of detectron2
        return read_weights(path)
    return load_checkpoint_file(path, map_location)
