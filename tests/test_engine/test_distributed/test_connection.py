"""Processes as a launcher starts them, on a CPU: they train, or end within seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from toy_training import make_runner

MOST_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def run_rank(folder: Path, rank: int, launcher: str, changes: dict) -> None:
    """Train as rank `rank` of 2, and leave the weights, or the error, in a file."""
    torch.set_num_threads(1)
    env = {
        'slurm': dict(
            SLURM_PROCID=rank,
            SLURM_NTASKS=2,
            SLURM_LOCALID=rank,
            SLURM_JOB_ID=77,
            SLURM_JOB_NODELIST='127.0.0.1',
        ),
        'pytorch': dict(RANK=rank, WORLD_SIZE=2, LOCAL_RANK=rank, MASTER_ADDR='127.0.0.1'),
        'mpi': dict(
            OMPI_COMM_WORLD_RANK=rank,
            OMPI_COMM_WORLD_SIZE=2,
            OMPI_COMM_WORLD_LOCAL_RANK=rank,
            OMPI_COMM_WORLD_LOCAL_SIZE=2,
        ),
    }[launcher]
    env.update(GLOO_SOCKET_IFNAME='lo', **changes.get('env', {}))
    os.environ.update({name: str(value) for name, value in env.items()})
    start, outcome = time.monotonic(), {}
    try:
        runner = make_runner(
            folder / 'run',
            launcher=launcher,
            max_epochs=1,
            cfg=Config(changes.get('cfg', {})),
            env_cfg=dict(dist_cfg=dict(backend='nccl', connect_timeout=changes.get('wait', 60))),
        )
        runner.train()
        outcome['weights'] = [p.tolist() for p in runner.model.parameters()]
        outcome['backend'] = torch.distributed.get_backend()
    except Exception as error:
        outcome['error'] = f'{type(error).__name__}: {error}'
    outcome['seconds'] = time.monotonic() - start
    (folder / f'rank_{rank}.json').write_text(json.dumps(outcome))


@pytest.fixture(scope='module')
def launch():
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['swin_ext', 'toy_training'])

    def launch(folder: Path, launcher: str = 'slurm', ranks=(0, 1), **changes) -> list[dict]:
        """What each rank left; `changes` of a rank are given as `rank_0`, `rank_1`, of all else."""
        port = dict(MASTER_PORT=free_port())
        processes = []
        for rank in ranks:
            own = dict(changes, **changes.get(f'rank_{rank}', {}))
            own['env'] = {**port, **own.get('env', {})}
            processes.append(context.Process(target=run_rank, args=(folder, rank, launcher, own)))
            processes[-1].start()
        for process in processes:
            process.join(10 * MOST_SECONDS)  # each says itself how long it took
            process.kill()
        return [json.loads((folder / f'rank_{rank}.json').read_text()) for rank in ranks]

    return launch


@pytest.mark.parametrize('launcher', ['slurm', 'pytorch', 'mpi'])
def test_two_ranks_train_alike_on_a_cpu(launch, tmp_path, launcher):
    first, second = launch(tmp_path, launcher)
    assert 'error' not in first, first['error']
    assert first['backend'] == 'gloo'
    assert first['weights'] == second['weights']


def test_a_master_without_an_address(launch, tmp_path):
    (found,) = launch(tmp_path, ranks=(1,), env=dict(MASTER_ADDR='nowhere.invalid'))
    assert found['error'].startswith('ConnectError: Rank 1 on ')
    assert "'nowhere.invalid' of rank 0 has no address" in found['error']
    assert found['seconds'] < MOST_SECONDS


@pytest.mark.parametrize('rank', [0, 1])
def test_a_rank_that_waits_for_another_in_vain(launch, tmp_path, rank):
    (found,) = launch(tmp_path, ranks=(rank,), wait=2)
    assert 'The 2 processes did not come together in 2 s: rank' in found['error']
    assert 'env_cfg.dist_cfg.connect_timeout=SECONDS waits longer' in found['error']
    assert found['seconds'] < 20


def test_a_port_in_use(launch, tmp_path):
    with socket.socket() as other:
        other.bind(('', 0))
        other.listen()
        port = other.getsockname()[1]
        (found,) = launch(tmp_path, ranks=(0,), env=dict(MASTER_PORT=port))
    assert f'ConnectError: Port {port} of' in found['error']
    assert 'mim ... --port PORT' in found['error']


def test_ranks_with_different_configs(launch, tmp_path):
    common = dict(work_dir='w', model=dict(type='ToyModel', depth=[1, 2]))
    other = dict(work_dir='w', model=dict(type='ToyModel', depth=[1, 3]))
    found = launch(tmp_path, rank_0=dict(cfg=common), rank_1=dict(cfg=other))
    for rank in found:
        assert rank['error'].startswith('DisagreementError: Rank 1 on ')
        assert '\n-model.depth.1 = 2\n+model.depth.1 = 3\n' in rank['error']
        assert rank['seconds'] < MOST_SECONDS
