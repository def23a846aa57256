"""What happens to a job after its training was told to end, by what Slurm says of it."""

from __future__ import annotations

import os

import pytest

from swin_ext.engine.slurm_job import has_begun_before, requeue

FACTS = (
    'JobId=12 JobName=x JobState={state} Requeue={requeue} Restarts={restarts} BatchFlag={batch}'
)
SCONTROL = """#!/bin/sh
echo "$*" >> {log}
case "$1" in show) echo "{facts}" ;; esac
exit {status}
"""


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Puts a `scontrol` into the path that answers with facts, and returns what it was asked."""

    def install(state='RUNNING', requeue=1, batch=1, restarts=1, status=0):
        path, log = tmp_path / 'scontrol', tmp_path / 'log'
        facts = FACTS.format(state=state, requeue=requeue, batch=batch, restarts=restarts)
        path.write_text(SCONTROL.format(log=log, facts=facts, status=status))
        path.chmod(0o755)
        monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
        return lambda: log.read_text().splitlines()

    return install


SHOW = 'show job --oneliner 12'
JOB = dict(SLURM_JOB_ID='12')
RESTARTED = dict(JOB, SLURM_RESTART_COUNT='1')


def test_a_job_that_slurm_would_not_start_again_is_requeued(scontrol):
    asked = scontrol()
    text = 'Job 12 is requeued and goes on from here when Slurm starts it again.'
    assert requeue(RESTARTED) == text
    assert asked() == [SHOW, 'requeue 12']


def test_a_job_that_was_not_submitted_for_that(scontrol):
    asked = scontrol(requeue=0)
    assert 'is requeued' in requeue(RESTARTED)
    assert asked() == [SHOW, 'update JobId=12 Requeue=1', 'requeue 12']


@pytest.mark.parametrize(
    'facts, message',
    [
        (dict(state='COMPLETING'), 'is over, cancelled or out of time, so it is not requeued'),
        (dict(state='COMPLETING', restarts=2), 'Slurm starts job 12 again by itself.'),
        (dict(batch=0), 'was not submitted by sbatch, so Slurm starts it only once'),
    ],
)
def test_jobs_that_are_left_alone(scontrol, facts, message):
    asked = scontrol(**facts)
    assert message in requeue(RESTARTED)
    assert asked() == [SHOW]


def test_a_controller_that_fails(scontrol):
    scontrol(status=1)
    assert 'Slurm did not requeue job 12: ' in requeue(JOB)


def test_no_slurm_and_no_scontrol(tmp_path, monkeypatch):
    assert requeue({}) == 'This is no Slurm job. Start it again with --resume.'
    monkeypatch.setenv('PATH', str(tmp_path))
    assert 'There is no scontrol here' in requeue(JOB) and 'scontrol requeue 12' in requeue(JOB)


def test_what_this_job_has_begun_is_resumed(tmp_path):
    pointer = tmp_path / 'last_checkpoint'
    pointer.write_text('of an earlier training')
    assert not has_begun_before(tmp_path, {})
    assert not has_begun_before(tmp_path, JOB)
    assert not has_begun_before(tmp_path, RESTARTED)  # it had not come to a checkpoint
    pointer.write_text('of this one')
    assert has_begun_before(tmp_path, RESTARTED)
    assert has_begun_before(tmp_path, RESTARTED)
    assert not has_begun_before(tmp_path, dict(RESTARTED, SLURM_JOB_ID='13'))
    assert not has_begun_before(tmp_path, RESTARTED)  # 13 has been there meanwhile
