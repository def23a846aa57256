"""Launchers by what they set."""

from __future__ import annotations

import os
import types

import pytest
import torch

from swin_ext.engine.distributed.connection import choose_device
from swin_ext.engine.distributed.places import Place, first_host, place_of_process, port_of_job
from swin_ext.engine.errors import SettingError

SLURM = dict(
    SLURM_PROCID='3',
    SLURM_NTASKS='4',
    SLURM_LOCALID='1',
    SLURM_JOB_ID='1234',
    SLURM_JOB_NODELIST='localhost',
)
MPI = dict(OMPI_COMM_WORLD_RANK='1', OMPI_COMM_WORLD_SIZE='2', OMPI_COMM_WORLD_LOCAL_RANK='1')


def test_slurm():
    place = place_of_process('slurm', SLURM)
    assert place == Place(3, 4, 1, 'localhost', port_of_job(SLURM))
    given = dict(SLURM, MASTER_ADDR='10.0.0.1', MASTER_PORT='29999')
    assert place_of_process('slurm', given) == Place(3, 4, 1, '10.0.0.1', 29999)
    assert place_of_process('slurm', given, port=5).port == 5


def test_ports_differ_between_jobs_and_steps():
    ports = {
        port_of_job(dict(SLURM_JOB_ID=str(job), SLURM_STEP_ID=str(step)))
        for job in range(1000, 1500)
        for step in range(16)
    }
    assert len(ports) == 500 * 16 and 20000 <= min(ports) and max(ports) < 30000


def test_torchrun_and_mpi():
    env = dict(RANK='1', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='a', MASTER_PORT='7')
    assert place_of_process('pytorch', env) == Place(1, 2, 0, 'a', 7)
    local = dict(MPI, OMPI_COMM_WORLD_LOCAL_SIZE='2')
    assert place_of_process('mpi', local) == Place(1, 2, 1, '127.0.0.1', 29500)
    assert place_of_process('mpi', dict(MPI, MASTER_ADDR='b')).master == 'b'
    with pytest.raises(SettingError, match='mpirun -x MASTER_ADDR'):
        place_of_process('mpi', dict(MPI, OMPI_COMM_WORLD_LOCAL_SIZE='1'))


@pytest.mark.parametrize(
    'launcher, message',
    [
        ('pytorch', 'RANK is not set.*torchrun'),
        ('slurm', 'SLURM_PROCID is not set.*srun'),
        ('mpi', 'OMPI_COMM_WORLD_RANK is not set.*mpirun'),
        ('slrum', "launcher='slrum' is none of"),
    ],
)
def test_a_process_that_was_not_launched(launcher, message):
    with pytest.raises(SettingError, match=message):
        place_of_process(launcher, {})


HOSTS = {
    'gpu1': 'gpu1',
    'gpu1,gpu2': 'gpu1',
    'gpu[003-004,7],login1': 'gpu003',
    'r1n[2]-ib,r1n7': 'r1n2-ib',
    '127.0.0.[1-2]': '127.0.0.1',
    'node-a[10,12]': 'node-a10',
}


@pytest.mark.parametrize('nodes', HOSTS)
def test_first_host(nodes):
    assert first_host(nodes) == HOSTS[nodes]


def test_an_unknown_name_is_looked_up_in_slurm(tmp_path, monkeypatch):
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\necho "NodeName=$4 NodeAddr=10.1.2.3 NodeHostName=x"\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}{os.pathsep}{os.environ["PATH"]}')
    env = dict(SLURM, SLURM_JOB_NODELIST='nowhere-[1-2].invalid')
    assert place_of_process('slurm', env).master == '10.1.2.3'
    scontrol.unlink()
    monkeypatch.setenv('PATH', str(tmp_path))
    assert place_of_process('slurm', env).master == 'nowhere-1.invalid'


@pytest.mark.parametrize('local_rank, visible, device', [(0, 4, 0), (3, 4, 3), (1, 1, 0)])
def test_a_process_takes_one_of_the_gpus_that_it_sees(monkeypatch, local_rank, visible, device):
    taken = []
    cuda = types.SimpleNamespace(
        is_available=lambda: True, device_count=lambda: visible, set_device=taken.append
    )
    monkeypatch.setattr(torch, 'cuda', cuda)
    place = Place(local_rank, 8, local_rank, 'a', 1)
    assert choose_device(place) == 'nccl' and taken == [device]
    assert choose_device(place, 'gloo') == 'gloo'


def test_without_a_gpu_it_is_gloo(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert choose_device(Place(0, 1, 0, 'a', 1), 'nccl') == 'gloo'
