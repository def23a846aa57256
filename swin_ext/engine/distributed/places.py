"""What a launcher tells each process by its environment: its number, and where the first one is."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from swin_ext.engine.errors import SettingError

LOWEST_PORT, NUM_PORTS = 20000, 10000  # below those that Linux gives out by itself (32768 and on)
DEFAULT_PORT = 29500  # of torch.distributed


@dataclass(frozen=True)
class Place:
    """One process among those of a run.

    Attributes:
        rank: Number of the process, of `world_size`.
        local_rank: Its number on its node, which is not always that of its GPU.
        master: Host name or address of the node of rank 0.
        port: Where rank 0 listens there.
    """

    rank: int
    world_size: int
    local_rank: int
    master: str
    port: int

    def export(self) -> None:
        """Tell PyTorch and MMEngine, which read these variables."""
        os.environ.update(
            RANK=str(self.rank),
            WORLD_SIZE=str(self.world_size),
            LOCAL_RANK=str(self.local_rank),
            MASTER_ADDR=self.master,
            MASTER_PORT=str(self.port),
        )


def place_of_process(
    launcher: str, env: Mapping[str, str] = os.environ, port: int | None = None
) -> Place:
    """Read the place of this process from what its launcher has set.

    Args:
        launcher: 'pytorch' (torchrun), 'slurm' (srun) or 'mpi' (mpirun of Open MPI).
        env: The environment.
        port: What a config says; else that of `MASTER_PORT`, else one that follows from the job.

    Raises:
        SettingError: If the process was not started by that launcher, or the launcher is unknown.
    """
    try:
        if launcher == 'pytorch':
            place = Place(
                int(env['RANK']),
                int(env['WORLD_SIZE']),
                int(env['LOCAL_RANK']),
                env['MASTER_ADDR'],
                int(env['MASTER_PORT']),
            )
        elif launcher == 'slurm':
            place = Place(
                int(env['SLURM_PROCID']),
                int(env['SLURM_NTASKS']),
                int(env['SLURM_LOCALID']),
                env.get('MASTER_ADDR') or _address_of_first_node(env),
                int(port or env.get('MASTER_PORT') or port_of_job(env)),
            )
        elif launcher == 'mpi':
            place = Place(
                int(env['OMPI_COMM_WORLD_RANK']),
                int(env['OMPI_COMM_WORLD_SIZE']),
                int(env['OMPI_COMM_WORLD_LOCAL_RANK']),
                env.get('MASTER_ADDR') or _address_of_only_node(env),
                int(port or env.get('MASTER_PORT') or DEFAULT_PORT),
            )
        else:
            raise SettingError(f"launcher='{launcher}' is none of none, pytorch, slurm and mpi.")
    except KeyError as error:
        starter = dict(pytorch='torchrun', slurm='srun', mpi='mpirun')[launcher]
        raise SettingError(
            f"launcher='{launcher}', but the environment variable {error.args[0]} is not set: this "
            f'process was not started by {starter}. Start it by {starter}, or use launcher=none.'
        ) from error
    return place


def port_of_job(env: Mapping[str, str]) -> int:
    """A port that differs between the jobs and steps that may share a node."""
    job, step = int(env['SLURM_JOB_ID']), int(env.get('SLURM_STEP_ID', 0))
    return LOWEST_PORT + (job * 16 + step) % NUM_PORTS


def first_host(nodes: str) -> str:
    """The first of a list as Slurm writes it: `gpu[003-004,7],login1` gives `gpu003`."""
    name, bracket, rest = re.match(r'([^\[,]*)(\[?)([^,]*)', nodes).groups()
    if not bracket:
        return name
    number, suffix = re.match(r'(\d+)[^\]]*(?:\]([^,\[]*))?', nodes[len(name) + 1 :]).groups()
    return f'{name}{number}{suffix or ""}'


def resolves(host: str) -> bool:
    """Whether this machine knows an address of `host`."""
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def _address_of_first_node(env: Mapping[str, str]) -> str:
    """Name of the node of rank 0, or what Slurm calls it by where nothing else knows the name."""
    host = first_host(env.get('SLURM_STEP_NODELIST') or env['SLURM_JOB_NODELIST'])
    if resolves(host):
        return host
    try:
        shown = subprocess.run(
            ['scontrol', 'show', 'node', '--oneliner', host],
            capture_output=True,
            text=True,
            timeout=20,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return host
    address = re.search(r'\bNodeAddr=(\S+)', shown)
    return address[1] if address else host


def _address_of_only_node(env: Mapping[str, str]) -> str:
    if env.get('OMPI_COMM_WORLD_LOCAL_SIZE') != env['OMPI_COMM_WORLD_SIZE']:
        raise SettingError(
            'The processes are on several nodes, and MASTER_ADDR does not say where rank 0 is. '
            'Give its address: mpirun -x MASTER_ADDR=ADDRESS ...'
        )
    return '127.0.0.1'
