"""A `python` whose imports are made already: scripts start in forks of one process.

Importing PyTorch, mmdet and what they need takes longer than most of what programs do in tests. A
server imports that once, and nothing of this package; nor does yapf lay out the text of configs.
`python forked_python.py SOCKET SCRIPT ...` then stands for `python SCRIPT ...` (also `-m MODULE`):
the script has the arguments, environment, folder and files of that process, which hands on signals
and ends with the script's status; if it is killed, so is the script.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

UPSTREAM = (
    'matplotlib.pyplot mmdet.apis mmdet.datasets mmdet.evaluation mmdet.models mmdet.visualization '
    'mmengine.runner monai.metrics msgspec pydantic torch._dynamo torchvision'
).split()
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
KILLED = 128 + signal.SIGKILL
MESSAGE = 2**20  # most bytes of one


@contextlib.contextmanager
def forked_python(folder: Path) -> Iterator[Path]:
    """Start a server; yields the `python` that forks from it."""
    path = folder / 'socket'
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen(64)  # who comes before the imports are made waits
        server = subprocess.Popen(
            [sys.executable, '-W', 'ignore', __file__, 'serve', str(listening.fileno())],
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,  # closes as this process and its forks end, however they do
            env=dict(os.environ, OMP_NUM_THREADS='1'),
        )
    python = folder / 'python'
    call = shlex.join([sys.executable, '-S', '-E', __file__, str(path), str(python)])
    python.write_text(f'#!/bin/sh\nexec {call} "$@"\n')
    python.chmod(0o755)
    try:
        yield python
    finally:
        server.terminate()  # workers that a test left behind keep its stdin open
        server.wait()
        server.stdin.close()


def serve(listening: socket.socket) -> None:
    import gc
    import importlib

    for name in UPSTREAM:
        importlib.import_module(name)
    sys.modules['mmengine.config.config'].FormatCode = lambda text, **_: (text, True)
    gc.freeze()  # for forks not to copy what they but look at
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for forks
    while sys.stdin not in select.select([listening, sys.stdin], [], [])[0]:
        connection, _ = listening.accept()
        if not os.fork():
            listening.close()
            run_script(connection)
            sys.exit()
        connection.close()


def run_script(connection: socket.socket) -> None:
    """In the fork: ends the process."""
    message, files, *_ = socket.recv_fds(connection, MESSAGE, 3)
    (python, *arguments), environment, folder = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    connection.send(b'%d' % os.getpid())

    def die_with_client():
        connection.recv(1)
        os.kill(os.getpid(), signal.SIGKILL)

    def end():
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        connection.send(b'%d' % status)
        os._exit(status)

    status = 1
    atexit.register(end)  # runs after what the script registers
    threading.Thread(target=die_with_client, daemon=True).start()
    sys.executable = python  # what the script starts is forked, too
    name, sys.argv = arguments[0], arguments
    if name == '-m':
        name, sys.argv = arguments[1], arguments[1:]
    sys.path[:1] = ['' if arguments[0] == '-m' else os.path.dirname(name)]
    sys.path[1:1] = filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))
    try:
        if arguments[0] == '-m':
            runpy.run_module(name, run_name='__main__', alter_sys=True)
        else:
            runpy.run_path(name, run_name='__main__')
        status = 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
        else:
            status = int(ended.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())


def run(path: str, call: list[str]) -> int:
    """Let the server fork a process that runs the script; returns its exit status."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(path)
        message = json.dumps([call, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(connection, [message], [0, 1, 2])
        pid = int(connection.recv(MESSAGE))
        for number in SIGNALS:
            signal.signal(number, lambda number, _: os.kill(pid, number))
        return int(connection.recv(MESSAGE) or KILLED)


if __name__ == '__main__':
    if sys.argv[1] == 'serve':
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        socket_path, *call = sys.argv[1:]
        if call[1] == '-u':
            del call[1]
        sys.exit(run(socket_path, call))
