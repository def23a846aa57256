"""A Slurm of two nodes on this host, for the time of a test: no systemd, ports of its own.

Nodes are named 127.0.0.1 and 127.0.0.2, names that resolve everywhere. The daemons are children of
this process, and end with it however it ends. A partition `gpu` can be preempted by `urgent`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ('slurmctld', 'slurmd', 'srun', 'sbatch', 'munged')
REQUIRED = 'SWIN_EXT_REQUIRE_SLURM'
DEVICES = ('/dev/null', '/dev/zero')  # as GPUs
NODES = ('127.0.0.1', '127.0.0.2')
PR_SET_PDEATHSIG = 1
CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
# Slurm starts a requeued job once its old credential has expired.
AuthInfo=socket={base}/munge/socket,cred_expire=5
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool-%n
SlurmctldPidFile={base}/ctld.pid
SlurmdPidFile={base}/d-%n.pid
SlurmctldLogFile={base}/log/ctld.log
SlurmdLogFile={base}/log/d-%n.log
SlurmctldPort={ports[0]}
# More processors than there are: scenarios run beside each other.
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=0
MpiDefault=none
ReturnToService=2
KillWait=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
GresTypes=gpu
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=16 Gres=gpu:2
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=16 Gres=gpu:2
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def skip_without_slurm() -> None:
    """Skip the test where Slurm cannot be started; fail where it must be there (`.ci/run`)."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    reason = f'Slurm is not installed: {", ".join(missing)} missing' if missing else ''
    if os.geteuid() != 0:
        reason = reason or 'daemons of Slurm are started as root'
    if reason and os.environ.get(REQUIRED):
        pytest.fail(f'{reason}, but {REQUIRED} is set')
    if reason:
        pytest.skip(f'{reason} (apt-get install slurm-wlm munge)')


@contextlib.contextmanager
def slurm_cluster() -> Iterator[Path]:
    """Start the cluster; `SLURM_CONF` leads there until it is stopped. Yields its folder."""
    base = Path(tempfile.mkdtemp(prefix='slurm-'))
    daemons: list[subprocess.Popen] = []
    before = os.environ.get('SLURM_CONF')
    try:
        _write_config(base)
        os.environ['SLURM_CONF'] = str(base / 'slurm.conf')
        _start_munge(base, daemons)
        daemons.append(_child(['slurmctld', '-D'], base))
        daemons += [_child(['slurmd', '-D', '-N', node], base) for node in NODES]
        _wait(lambda: slurm('sinfo', '-hN', '-p', 'gpu', '-o', '%T').split() == ['idle'] * 2, base)
        yield base
    finally:
        subprocess.run(['scancel', '-u', 'root'], capture_output=True)
        with contextlib.suppress(TimeoutError):
            _wait(lambda: not slurm('squeue', '-h'), base)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
            daemon.kill()
            daemon.wait()
        os.environ.pop('SLURM_CONF', None)
        if before is not None:
            os.environ['SLURM_CONF'] = before
        shutil.rmtree(base, ignore_errors=True)


def slurm(*command: str) -> str:
    """Output of a command of Slurm."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.strip()


def _write_config(base: Path) -> None:
    base.chmod(0o755)  # munge wants nobody else to write to it, but its socket to be reached
    for name in ('state', 'log', 'munge', *(f'spool-{node}' for node in NODES)):
        (base / name).mkdir()
    sockets = [socket.socket() for _ in range(3)]
    for each in sockets:
        each.bind(('', 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    host = socket.gethostname().partition('.')[0]
    (base / 'slurm.conf').write_text(CONFIG.format(base=base, host=host, ports=ports, nodes=NODES))
    # Slurm counts devices, and opens none here.
    (base / 'gres.conf').write_text(
        ''.join(f'NodeName={node} Name=gpu File={dev}\n' for node in NODES for dev in DEVICES)
    )


def _start_munge(base: Path, daemons: list) -> None:
    key = base / 'munge' / 'key'
    key.touch(0o600)
    key.write_bytes(os.urandom(1024))
    names = {'key-file': 'key', 'socket': 'socket', 'pid-file': 'pid', 'seed-file': 'seed'}
    options = [f'--{option}={base}/munge/{name}' for option, name in names.items()]
    log = f'--log-file={base}/log/munged.log'
    daemons.append(_child(['munged', '--force', '--foreground', *options, log], base))
    _wait((base / 'munge' / 'socket').exists, base)


def _child(command: list[str], base: Path) -> subprocess.Popen:
    libc = ctypes.CDLL(None)

    def end_with_parent():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    with open(base / 'log' / 'output', 'a') as output:
        return subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=end_with_parent)


def _wait(condition, base: Path, seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            for log in (base / 'log').iterdir():
                print(log.name, log.read_text()[-2000:], sep='\n', file=sys.stderr)
            raise TimeoutError('Slurm did not do in time what was waited for.')
        time.sleep(0.2)
