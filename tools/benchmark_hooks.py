"""Measure what the hooks of this package, and saving a checkpoint, add to a training step.

    python tools/benchmark_hooks.py configs/mask_rcnn_swin-nano_cmr.py \\
        --cfg-options data_root=data/cmr_phantom --json hooks.json

One training, in blocks of as many steps as lie between two log lines: with all hooks, with those of
MMEngine and mmdet alone, and so on in turn (with, without, without, with), so that whatever else
slows the machine slows both alike. Every step gets the same batch, loaded before, so that no
difference between images is measured; a step is everything from one to the next. Threads of this
package run all the time: their processor time is added to the steps with hooks, as if training had
waited for it. Checkpoints and validations are left out.

Then steps alone, steps behind a copy of all weights and optimizer states in memory, and steps
behind a checkpoint, which is written while they run, in random order. Where training uses all
cores itself, the writing takes its share of them.
"""

import os
import sys

if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'  # --help needs no mmdet
    from swin_ext.benchmarks.hooks import main

    main(sys.argv[1:])
