"""The Slurm job that a run is part of: whether it was started again, and starting it again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from swin_ext.checkpoint.writer import LAST_CHECKPOINT
from swin_ext.utils.files import replacing_text

MARK = 'slurm_job'  # file in a work dir with the number of the job that began the training there
SECONDS = 20  # for an answer of Slurm's controller


def has_begun_before(work_dir: str | os.PathLike, env: Mapping[str, str] = os.environ) -> bool:
    """Whether this job, started again by Slurm, left a checkpoint in `work_dir` the time before.

    Checkpoints that other jobs have left there do not count. Marks the work dir as this job's.
    """
    job = env.get('SLURM_JOB_ID')
    if job is None:
        return False
    mark, pointer = Path(work_dir, MARK), Path(work_dir, LAST_CHECKPOINT)
    is_restart = int(env.get('SLURM_RESTART_COUNT') or 0) > 0
    if is_restart and mark.is_file() and mark.read_text().strip() == job:
        return pointer.is_file() and pointer.stat().st_mtime_ns >= mark.stat().st_mtime_ns
    with replacing_text(mark) as file:
        file.write(f'{job}\n')
    return False


def requeue(env: Mapping[str, str] = os.environ) -> str:
    """Let Slurm start this job again, unless it does so by itself or its user has cancelled it.

    Returns:
        What happens next, for the log.
    """
    job = env.get('SLURM_JOB_ID')
    by_hand = 'Start it again with --resume.'
    if job is None:
        return f'This is no Slurm job. {by_hand}'
    if shutil.which('scontrol') is None:
        return (
            f'There is no scontrol here (in a container, bind it and slurm.conf), so job {job} '
            f'cannot be requeued from within: if it was not submitted with --requeue, run '
            f'`scontrol requeue {job}` on a login node, or submit it again with --resume.'
        )
    try:
        facts = facts_of_job(job)
        if facts.get('BatchFlag') == '0':
            return f'Job {job} was not submitted by sbatch, so Slurm starts it only once. {by_hand}'
        if int(facts.get('Restarts', 0)) > int(env.get('SLURM_RESTART_COUNT') or 0):
            return f'Slurm starts job {job} again by itself.'
        if facts.get('JobState') != 'RUNNING':  # COMPLETING, whichever of the two it was
            return (
                f'Job {job} is over, cancelled or out of time, so it is not requeued: submit it '
                'again with --resume. (`sbatch --signal=USR2@90` gives notice before the time '
                'limit, and is followed by a requeue.)'
            )
        if facts.get('Requeue') == '0':
            _scontrol('update', f'JobId={job}', 'Requeue=1')
        _scontrol('requeue', job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, 'stderr', None) or error
        return f'Slurm did not requeue job {job}: {str(reason).strip()} {by_hand}'
    return f'Job {job} is requeued and goes on from here when Slurm starts it again.'


def facts_of_job(job: str) -> dict[str, str]:
    """What `scontrol show job` says; of an array, about this task alone."""
    return dict(re.findall(r'(\w+)=(\S*)', _scontrol('show', 'job', '--oneliner', job)))


def _scontrol(*arguments: str) -> str:
    return subprocess.run(
        ['scontrol', *arguments], capture_output=True, text=True, check=True, timeout=SECONDS
    ).stdout
