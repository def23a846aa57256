"""Keeps mmdet out of a run of MMSegmentation. A config asks for it by importing it after mmseg:

    custom_imports = dict(imports=['mmseg', 'swin_ext.mmseg_without_mmdet'])

Importing `mmseg` first leaves mmdet out of `import swin_ext`, too. mmseg's own heads of MaskFormer
and Mask2Former, which derive from mmdet's, cannot be built afterwards.
"""

from swin_ext.engine.upstream_patches import import_mmseg_without_mmdet

import_mmseg_without_mmdet()
