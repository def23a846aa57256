"""Swin Mask R-CNN for cardiac MR on OpenMMLab; importing it registers everything.

Where MMSegmentation was imported before and MMDetection was not, what derives from mmdet's classes
is left out, whose import takes seconds; `import swin_ext.registration` registers it there, too.

Scripts that build nothing by its registered name set the environment variable `SWIN_EXT_LIGHT`
before the import, and save the seconds that importing mmdet takes. It is taken back at once, so
that programs which they start are not affected.
"""

import os
import sys

from swin_ext.version import __version__

if not os.environ.pop('SWIN_EXT_LIGHT', None):
    if 'mmseg' in sys.modules and 'mmdet' not in sys.modules:
        from swin_ext import registration_without_mmdet  # noqa: F401
    else:
        from swin_ext import registration  # noqa: F401

__all__ = ['__version__']
