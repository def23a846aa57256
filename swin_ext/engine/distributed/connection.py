"""Connects the processes of a run, within a minute or with an error that says why not."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import time

import torch
from mmengine.logging import print_log
from torch import distributed

from swin_ext.engine.distributed.places import Place, place_of_process, resolves
from swin_ext.engine.errors import ConnectError

CONNECT_SECONDS = 60.0
# The same mistake meets all ranks; where a launcher ends the others with the first, rank 0 tells.
SECONDS_BEHIND_RANK_0 = 3.0


def connect(launcher: str, settings: dict) -> distributed.Store:
    """Choose device and backend of this process, and form the group of all processes.

    Args:
        launcher: 'pytorch', 'slurm' or 'mpi'.
        settings: `env_cfg.dist_cfg`: `backend` ('nccl' is replaced by 'gloo' where there is no
            CUDA), `timeout` of what ranks exchange in seconds, `port`, and `connect_timeout` in
            seconds for all ranks to come together.

    Returns:
        The store that the ranks share.

    Raises:
        ConnectError: If they do not come together in time.
        SettingError: If the launcher did not start this process.
    """
    place = place_of_process(launcher, port=settings.get('port'))
    place.export()
    backend = choose_device(place, settings.get('backend'))
    store = _meet(place, float(settings.get('connect_timeout', CONNECT_SECONDS)))
    options = {}
    if settings.get('timeout') is not None:
        options['timeout'] = datetime.timedelta(seconds=settings['timeout'])
    distributed.init_process_group(
        backend,
        store=distributed.PrefixStore('default_pg', store),
        rank=place.rank,
        world_size=place.world_size,
        **options,
    )
    return store


def choose_device(place: Place, backend: str | None = None) -> str:
    """Let this process use its own GPU where there are any, and return the backend that fits.

    With `srun --gpus-per-task=1`, each process sees one GPU, number 0, whatever its local rank is.
    """
    if not torch.cuda.is_available():
        if backend not in (None, 'nccl', 'gloo', 'mpi'):
            print_log(f"backend='{backend}' needs a GPU: gloo is used.", 'current', logging.WARNING)
        return 'mpi' if backend == 'mpi' else 'gloo'
    torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    return backend or 'nccl'


def _meet(place: Place, seconds: float) -> distributed.Store:
    try:
        _check_master(place)
        return next(
            distributed.rendezvous(
                'env://', place.rank, place.world_size, timeout=datetime.timedelta(seconds=seconds)
            )
        )[0]
    except ConnectError:
        _let_rank_0_tell(place)
        raise
    except Exception as error:  # torch raises others in each version
        _let_rank_0_tell(place)
        what = str(error).strip().split('\n')[0].split(' Exception raised from')[0]
        waited = f'The {place.world_size} processes did not come together in {seconds:.0f} s'
        raise ConnectError(
            f'{waited}: rank {place.rank} on {socket.gethostname()} met at '
            f'{place.master}:{place.port} (MASTER_ADDR:MASTER_PORT): {what}\n'
            'See above whether another rank has failed. Else check that all nodes reach that '
            'address and port (firewall, network interface), or give another one by these '
            'variables; env_cfg.dist_cfg.connect_timeout=SECONDS waits longer.'
        ) from error


def _let_rank_0_tell(place: Place) -> None:
    if place.rank:
        time.sleep(SECONDS_BEHIND_RANK_0)


def _check_master(place: Place) -> None:
    if not resolves(place.master):
        raise ConnectError(
            f"Rank {place.rank} on {socket.gethostname()}: the host '{place.master}' of rank 0 "
            'has no address here. Set the environment variable MASTER_ADDR to its address, or let '
            'the name be known on all nodes (/etc/hosts, DNS).'
        )
    # torchrun's agent listens there already.
    if place.rank == 0 and os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('', place.port))
            except OSError as error:
                raise ConnectError(
                    f'Port {place.port} of {socket.gethostname()} cannot be used by rank 0: '
                    f'{error.strerror}. Choose another one: mim ... --port PORT, or the '
                    'environment variable MASTER_PORT.'
                ) from error
