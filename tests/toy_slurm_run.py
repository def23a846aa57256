"""A training of 60 iterations as one task of Slurm: CONFIG is not read."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

NUM_ITERATIONS = 60
PROGRESS = 'progress'  # file with the number of each iteration of rank 0, as it ends
PAUSE = 'pause'  # file during whose presence iteration 20 does not end, unless a signal comes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--launcher')
    parser.add_argument('--work-dir', type=Path)
    parser.add_argument('--resume', action='store_true')
    args = parser.parse_args()

    import torch
    from mmengine.hooks import Hook

    from swin_ext.engine.hooks import PreemptionHook
    from toy_training import make_runner

    preemption = PreemptionHook()

    class Pace(Hook):
        def after_train_iter(self, runner, *_, **kwargs):
            if runner.rank == 0:
                with open(args.work_dir / PROGRESS, 'a') as file:
                    file.write(f'{runner.iter + 1}\n')
            while runner.iter + 1 == 20 and (args.work_dir / PAUSE).exists():
                if preemption.announcement.received:
                    break
                time.sleep(0.02)

    torch.set_num_threads(1)
    os.environ['GLOO_SOCKET_IFNAME'] = 'lo'
    runner = make_runner(
        args.work_dir,
        launcher=args.launcher,
        resume=args.resume,
        max_epochs=12,  # of five iterations for each of two ranks
        val_interval=20,
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=15, max_keep_ckpts=2),
        hooks=[
            dict(type='BestCheckpointHook', metric='toy/loss'),
            dict(type='EMAHook'),
            preemption,
            Pace(),
        ],
    )
    runner.train()


if __name__ == '__main__':
    os.environ['SWIN_EXT_LIGHT'] = '1'
    main()
