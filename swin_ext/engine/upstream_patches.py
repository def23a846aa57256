"""All that this package changes in upstream modules for the whole process, and why.

================================  ============================  ==================================
what                              read for                      why
================================  ============================  ==================================
`torch.load` and `load_url` of    mmengine 0.10.4 to 0.10.7     https://github.com/open-mmlab/
`mmengine.runner.checkpoint`                                    mmengine/issues/1655: loads without
                                                                `weights_only`, so runs any code
================================  ============================  ==================================

Anything that a subclass or a registered loader can reach is done there, not here.
"""

from __future__ import annotations

import os
import types
from typing import Any

import mmengine.runner.checkpoint as mmengine_checkpoint
import torch

from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.weight_files import WeightFileNotFoundError
from swin_ext.utils.download import DownloadError, download

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
    mmengine_checkpoint.load_url = _load_url
    mmengine_checkpoint.CheckpointLoader.register_scheme(
        prefixes='', loader=load_from_local, force=True
    )


def load_from_local(filename: str, map_location: Any) -> Any:
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise WeightFileNotFoundError(
            f"The checkpoint '{filename}' does not exist (working directory: {os.getcwd()}). "
            'Correct `load_from`, `init_cfg` or the checkpoint argument; on `--resume`, the path '
            'comes from the file `last_checkpoint` in the work_dir.'
        )
    return load_checkpoint_file(path, map_location)


def _load_url(
    url: str, model_dir: str | None = None, map_location: Any = None, progress: bool = True
) -> Any:
    """Replace ``torch.hub.load_state_dict_from_url``, which loads with ``weights_only=False``."""
    cache_dir = model_dir or os.path.join(torch.hub.get_dir(), 'checkpoints')
    try:
        path = download(url, cache_dir)
    except DownloadError as error:
        raise CheckpointError(_NOT_DOWNLOADED.format(url=url, reason=error)) from error
    return load_checkpoint_file(path, map_location)
