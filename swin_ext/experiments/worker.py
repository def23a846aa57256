"""One run of an experiment in a process of its own: trained from where it is, then tested.

    python -m swin_ext.experiments.worker FOLDER [--launcher slurm]

`FOLDER/config.py` says all. What is there afterwards: the work directory of the training, `test/`
with what the test wrote, and `finished.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine.runner import Runner

CONFIG, FINISHED, TEST = 'config.py', 'finished.json', 'test'
_count = itertools.count()


def run(folder: Path, launcher: str = 'none', weights: str = 'last') -> None:
    """Train, go on with an interrupted training, or take a finished one; then test.

    Args:
        folder: Of the run.
        launcher: Of the ranks, as for mmdet's scripts.
        weights: 'last', those at the end of the training; or 'best', those of the best validation.

    Raises:
        ExperimentError: If there are no such weights.
    """
    from mmengine.dist import is_main_process

    import swin_ext.registration  # noqa: F401 (what configs name)
    from swin_ext.checkpoint.writer import LAST_CHECKPOINT
    from swin_ext.utils.files import replacing_text

    # `resume` with the config's `load_from` would resume from that.
    begun = dict(resume=True, load_from=None) if (folder / LAST_CHECKPOINT).exists() else {}
    runner = build(folder, folder, launcher, 'train', **begun)
    runner.train()
    iterations = runner.iter
    del runner
    checkpoint = chosen_weights(folder, weights)
    tester = build(folder, folder / TEST, launcher, 'test', load_from=str(checkpoint))
    tester.test()
    if is_main_process():
        with replacing_text(folder / FINISHED) as file:
            json.dump(dict(checkpoint=checkpoint.name, iterations=iterations), file)


def build(folder: Path, work_dir: Path, launcher: str, stage: str, **changes: Any) -> Runner:
    """A runner of the run's config with changes."""
    from mmengine.config import Config
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    cfg = Config.fromfile(folder / CONFIG)
    cfg.merge_from_dict(changes)
    cfg.work_dir, cfg.launcher = str(work_dir), launcher
    # MMEngine keeps one of each name in a process, with the folder that it writes to.
    cfg.experiment_name = f'{folder.name}_{stage}_{next(_count)}'
    if cfg.get('visualizer'):
        cfg.visualizer.name = cfg.experiment_name
    return RUNNERS.build(cfg) if cfg.get('runner_type') else Runner.from_cfg(cfg)


def chosen_weights(folder: Path, weights: str) -> Path:
    """Checkpoint of a finished training; see `run`."""
    from swin_ext.checkpoint.resume import checkpoint_to_resume
    from swin_ext.experiments.errors import ExperimentError

    if weights == 'best':
        found = sorted(folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
        if not found:
            raise ExperimentError(
                f'{folder} has no best checkpoint: its config has no BestCheckpointHook, or no '
                'validation had the metric. Add the hook, or take --weights last.'
            )
        return found[-1]
    found = checkpoint_to_resume(str(folder))
    if found is None:
        raise ExperimentError(
            f'{folder} has no checkpoint of the end of its training: the config needs a '
            'CheckpointHook in default_hooks.checkpoint.'
        )
    return Path(found)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path)
    parser.add_argument('--launcher', default='none', choices=['none', 'pytorch', 'slurm', 'mpi'])
    parser.add_argument('--weights', default='last', choices=['last', 'best'])
    args = parser.parse_args(argv)
    run(args.folder, args.launcher, args.weights)


if __name__ == '__main__':
    from swin_ext.utils.program import run_tool

    sys.exit(run_tool(lambda: main(sys.argv[1:])))
