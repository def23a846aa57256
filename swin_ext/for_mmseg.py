"""Lets scripts of MMSegmentation run configs of this package. A config imports it, after mmseg:

    custom_imports = dict(imports=['mmseg', 'swin_ext.for_mmseg'])

mmdet, which takes seconds to import, is kept out: by `import swin_ext`, as mmseg comes first, and
by mmseg, whose heads of MaskFormer and Mask2Former derive from mmdet's and cannot be built
afterwards. A test, too, is run by the `runner_type` of the config.
"""

from swin_ext.engine.upstream_patches import import_mmseg_without_mmdet, respect_runner_type

import_mmseg_without_mmdet()
respect_runner_type()
