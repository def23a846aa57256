"""Swin Mask R-CNN for cardiac MR on OpenMMLab; importing it registers everything.

Scripts that build nothing by its registered name set the environment variable `SWIN_EXT_LIGHT`
before the import, and save the seconds that importing mmdet takes. It is taken back at once, so
that programs which they start are not affected.
"""

import os

from swin_ext.version import __version__

if not os.environ.pop('SWIN_EXT_LIGHT', None):
    from swin_ext import registration  # noqa: F401

__all__ = ['__version__']
