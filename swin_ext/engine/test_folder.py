"""Where a test writes: beside the checkpoint, unless it is told otherwise."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mmengine.config import Config


def folder_of_run(cfg: Config) -> str:
    """The `work_dir` of a config, or `test/` beside the checkpoint where nobody chose one.

    mmdet's `test.py` fills in `./work_dirs/NAME_OF_CONFIG` where neither `--work-dir` nor the
    config names a folder: that of a training of the same name, if any, and not of the checkpoint
    that is tested. What `--work-dir` or `work_dir` in a config names is left as it is, and so is
    the default for checkpoints that are not local files in a folder which can be written.
    """
    work_dir = cfg.work_dir
    checkpoint = cfg.get('load_from')
    if not (checkpoint and cfg.filename and is_test_script()):
        return work_dir
    default = os.path.join('./work_dirs', Path(cfg.filename).stem)  # the rule of `test.py`
    if work_dir != default or option_is_given('--work-dir', sys.argv):
        return work_dir
    checkpoint = Path(os.path.expanduser(checkpoint))
    if not checkpoint.is_file() or not os.access(checkpoint.parent, os.W_OK):
        return work_dir
    return str(checkpoint.parent / 'test')


def is_test_script() -> bool:
    """Whether this process runs mmdet's `test.py`, which only `__main__` tells.

    A runner is built before it is asked to train or to test, and `load_from` may be of either.
    """
    return Path(getattr(sys.modules['__main__'], '__file__', None) or '').name == 'test.py'


def option_is_given(option: str, arguments: list[str]) -> bool:
    """Whether a long option, or a shorter form that argparse takes for it, is among arguments."""
    names = (argument.partition('=')[0] for argument in arguments)
    return any(len(name) > 2 and option.startswith(name) for name in names)
