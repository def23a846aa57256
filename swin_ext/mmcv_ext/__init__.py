"""mmcv's compiled extension ``mmcv._ext`` in plain PyTorch and torchvision, for mmcv-lite 2.1.0.

mmcv-lite ships the Python half of ``mmcv.ops`` without the compiled half, which mmdet needs to be
imported at all. ``_ext.py`` is installed as ``mmcv/_ext.py`` and loads the other files of this
folder as ``mmcv._ext.*``; ``ops.py`` lists what they implement. Where a compiled mmcv is
installed, Python prefers its ``_ext.*.so`` in the same folder and nothing here is used.
"""
