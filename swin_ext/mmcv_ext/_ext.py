"""Installed as ``mmcv/_ext.py``: loads the ops of ``swin_ext/mmcv_ext`` as ``mmcv._ext.*``."""

import os
from importlib.util import find_spec

# find_spec does not run swin_ext, which imports mmdet and so mmcv.ops, which imports this file.
_swin_ext = find_spec('swin_ext')
if _swin_ext is None:  # the error that mmcv-lite raises by itself, which mmengine knows to catch
    raise ModuleNotFoundError(
        f'{__file__} needs swin_ext, which is gone: reinstall it or delete this file',
        name='mmcv._ext',
    )
# A module with a __path__ is a package, whose submodules are found there.
__path__ = [os.path.join(folder, 'mmcv_ext') for folder in _swin_ext.submodule_search_locations]

from mmcv._ext.ops import *  # noqa: E402, F403
from mmcv._ext.ops import __getattr__  # noqa: E402, F401
