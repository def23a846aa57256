"""Checkpoints are written whole or not at all, and what resumes recognises the whole ones."""

from __future__ import annotations

import copy
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner

from swin_ext.checkpoint import writer as checkpoint_writer
from swin_ext.checkpoint.resume import check_whole, checkpoint_to_resume
from swin_ext.checkpoint.safe_reading import CheckpointError, load_checkpoint_file
from swin_ext.checkpoint.writer import (
    CheckpointWriteError,
    CheckpointWriter,
    copy_to_cpu,
    remove_unfinished,
    replacing,
    write_checkpoint,
    write_last_checkpoint,
)
from swin_ext.utils import files
from toy_training import make_runner


@pytest.fixture
def writer():
    writer = CheckpointWriter()
    yield writer
    writer._thread.shutdown()


@pytest.fixture
def disk(monkeypatch):
    """A disk that writes no checkpoint before `disk.set()`."""
    may_write = threading.Event()

    def write(checkpoint, path):
        assert may_write.wait(10)
        write_checkpoint(checkpoint, path)

    monkeypatch.setattr(checkpoint_writer, 'write_checkpoint', write)
    yield may_write
    may_write.set()


@pytest.fixture
def file_size_limit():
    """Makes the kernel refuse bytes of a file beyond a limit, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size or soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def assert_same(actual, expected):
    assert type(actual) is type(expected)
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key, value in expected.items():
            assert_same(actual[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected):
            assert_same(a, b)
    elif isinstance(expected, torch.Tensor):
        assert actual.dtype == expected.dtype and torch.equal(actual, expected)
    elif isinstance(expected, HistoryBuffer):
        assert_same(list(actual.data), list(expected.data))
    elif isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(actual, expected)
    else:
        assert actual == expected


# What is written


def test_the_copy_is_equal_and_shares_no_memory():
    weights = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).state_dict()
    original = dict(
        state_dict=weights,
        nested=[(torch.arange(3)[::2], 'text', None)],
        transposed=torch.arange(6).reshape(2, 3).T,
        empty=torch.empty(0, 4),
        parameter=torch.nn.Parameter(torch.ones(2)),
        history=HistoryBuffer([1.0, 2.0], [1, 1]),
        config=ConfigDict(a=dict(b=torch.ones(1))),
        array=np.arange(4),
        half=torch.ones(2).half(),
        sparse=torch.eye(2).to_sparse(),
    )
    expected = copy.deepcopy(original)
    expected['parameter'] = expected['parameter'].data
    copied = copy_to_cpu(original)
    assert copied['state_dict']._metadata == weights._metadata
    assert torch.equal(copied.pop('sparse').to_dense(), expected.pop('sparse').to_dense())
    assert_same(copied, expected)
    with torch.no_grad():
        for tensor in [
            *weights.values(),
            original['nested'][0][0],
            original['transposed'],
            original['parameter'],
            original['config'].a.b,
        ]:
            tensor.fill_(7)
    original['array'][:] = 7
    original['history'].update(7.0, 1)
    assert_same(copied, expected)


def test_tied_weights_are_written_once(tmp_path):
    tied, other = torch.randn(1000), torch.randn(1000)
    checkpoint = copy_to_cpu(dict(a=tied, b=tied.detach(), c=other, d=other[:10]))
    assert checkpoint['a'].data_ptr() == checkpoint['b'].data_ptr() != checkpoint['c'].data_ptr()
    assert torch.equal(checkpoint['d'], other[:10])
    write_checkpoint(checkpoint, tmp_path / 'tied.pth')
    assert os.path.getsize(tmp_path / 'tied.pth') < 3 * 4000  # the values of two, and names


@pytest.mark.parametrize('hooks', [[], [dict(type='EMAHook')]], ids=['plain', 'EMA'])
def test_the_runner_saves_what_upstream_saves(tmp_path, hooks):
    runner = make_runner(tmp_path, hooks=hooks)
    runner.train()
    runner.save_checkpoint(str(tmp_path), 'ours.pth', by_epoch=False)
    runner.checkpoint_writer.flush()
    Runner.save_checkpoint(runner, str(tmp_path), 'upstream.pth', by_epoch=False)
    ours, upstream = (
        torch.load(tmp_path / f'{name}.pth', weights_only=False) for name in ('ours', 'upstream')
    )
    assert ours['meta'].pop('time') and upstream['meta'].pop('time')
    assert len(ours['optimizer']['state']) == 4 and ('ema_state_dict' in ours) == bool(hooks)
    assert ours['state_dict']._metadata == upstream['state_dict']._metadata
    assert_same(ours, upstream)


def test_the_config_is_saved_as_it_is_by_then(tmp_path):
    runner = make_runner(tmp_path)
    runner.train()
    for value in (1, 2):
        runner.cfg.changed = value
        runner.save_checkpoint(str(tmp_path), f'{value}.pth')
    runner.checkpoint_writer.flush()
    texts = [
        load_checkpoint_file(tmp_path / f'{value}.pth', 'cpu')['meta']['cfg'] for value in (1, 2)
    ]
    saved = [Config.fromstring(text, '.py') for text in texts]
    assert [cfg.changed for cfg in saved] == [1, 2] and texts[1] == runner.cfg.pretty_text


def test_remote_files_are_written_as_upstream_does(tmp_path, monkeypatch):
    runner = make_runner(tmp_path)
    runner.train()
    written = []
    monkeypatch.setattr(
        'swin_ext.engine.runner.save_checkpoint',
        lambda checkpoint, *args: written.append((checkpoint, args)),
    )
    monkeypatch.setattr('swin_ext.engine.runner.join_path', lambda *parts, **_: '/'.join(parts))
    runner.save_checkpoint('s3://bucket', 'a.pth')
    ((checkpoint, args),) = written
    assert args[0] == 's3://bucket/a.pth'
    live = runner.model.state_dict()
    assert all(checkpoint['state_dict'][key].data_ptr() != live[key].data_ptr() for key in live)


# When it is written


def test_training_goes_on_while_a_copy_of_that_moment_is_written(writer, disk, tmp_path):
    weight = torch.zeros(3)
    writer.save(dict(weight=weight), tmp_path / 'a.pth')
    writer.then(write_last_checkpoint, tmp_path, 'a.pth')
    weight += 1
    assert os.listdir(tmp_path) == []
    disk.set()
    writer.flush()
    assert sorted(os.listdir(tmp_path)) == ['a.pth', 'last_checkpoint']
    assert torch.equal(torch.load(tmp_path / 'a.pth')['weight'], torch.zeros(3))
    assert (tmp_path / 'last_checkpoint').read_text() == 'a.pth'


def test_there_is_one_copy_at_a_time(writer, disk, tmp_path, monkeypatch):
    copied_when = []
    monkeypatch.setattr(
        checkpoint_writer,
        'copy_to_cpu',
        lambda checkpoint: copied_when.append(sorted(os.listdir(tmp_path))) or checkpoint,
    )
    monkeypatch.setattr(checkpoint_writer, 'LONG_WAIT_SECONDS', 0.1)
    told = []
    monkeypatch.setattr(checkpoint_writer, 'print_log', lambda message, *_: told.append(message))
    writer.save({}, tmp_path / 'a.pth')
    threading.Timer(0.2, disk.set).start()
    writer.save({}, tmp_path / 'b.pth')
    writer.flush()
    assert copied_when == [[], ['a.pth']]
    assert len(told) == 1 and 'waited 0.' in told[0] and 'b.pth' in told[0]


def test_what_is_queued_is_written_when_the_interpreter_ends(tmp_path):
    script = (
        'import runpy, sys, time, torch\n'
        f'module = runpy.run_path({checkpoint_writer.__file__!r})\n'
        'writer = module["CheckpointWriter"]()\n'
        'writer.then(time.sleep, 0.5)\n'
        'writer._thread.submit(int)\n'
        'writer.then(module["write_checkpoint"], dict(a=torch.ones(2)), "a.pth")\n'
        'raise SystemExit(3)'
    )
    done = subprocess.run([sys.executable, '-c', script], cwd=tmp_path)
    assert done.returncode == 3
    assert torch.equal(torch.load(tmp_path / 'a.pth')['a'], torch.ones(2))


# What can go wrong


CRASH_POINTS = 200  # more than saving has steps


@pytest.mark.parametrize('old', [True, False], ids=['new name', 'same name'])
def test_a_kill_between_any_two_steps_leaves_a_whole_checkpoint(tmp_path, old):
    """Each call to the system is one step; a write may also be cut in the middle."""
    old_name = 'old.pth' if old else 'new.pth'
    outcomes = set()
    for step in range(CRASH_POINTS):
        folder = tmp_path / str(step)
        folder.mkdir()
        write_checkpoint(dict(a=torch.zeros(100)), folder / old_name)
        write_last_checkpoint(folder, old_name)
        child = os.fork()
        if child == 0:
            try:
                _save_until(step, folder, old_name if old else None)
            finally:
                os._exit(1)
        survived = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        named = folder / (folder / 'last_checkpoint').read_text()
        check_whole(named)
        for path in folder.glob('*.pth'):
            value = torch.load(path)['a'].unique().tolist()
            assert value in ([0.0], [1.0])
        outcomes.add((named.name, *torch.load(named)['a'].unique().tolist()))
        assert remove_unfinished(folder) == [] or not survived
        assert not list(folder.glob('*.saving'))
        if survived:
            assert sorted(os.listdir(folder)) == ['last_checkpoint', 'new.pth']
            break
    assert survived and step > 10
    assert len(outcomes) == 2  # before and after


def _save_until(step: int, folder: Path, outdated: str | None) -> None:
    """Save, and die without any clean-up at step number `step`."""
    steps = iter(range(step))

    def dying(function):
        def call(*args, **kwargs):
            if next(steps, None) is None:
                os._exit(9)
            return function(*args, **kwargs)

        return call

    class File(files.WholeWrites):
        def write(self, data):
            if next(steps, None) is None:
                super().write(bytes(data)[: len(data) // 2])
                os._exit(9)
            return super().write(data)

    files.WholeWrites = File
    for name in ('fsync', 'replace', 'open'):
        setattr(os, name, dying(getattr(os, name)))
    writer = CheckpointWriter()
    writer.save(dict(a=torch.ones(100)), folder / 'new.pth')
    writer.then(write_last_checkpoint, folder, 'new.pth')
    if outdated:
        writer.then(dying(os.remove), folder / outdated)
    writer.flush()
    os._exit(0)


@pytest.mark.parametrize('size', [0, 50, 1000, 30_000, 41_000])
def test_full_disk(writer, file_size_limit, tmp_path, size):
    checkpoint = dict(a=torch.zeros(10_000))
    writer.save(checkpoint, tmp_path / 'old.pth')
    writer.then(write_last_checkpoint, tmp_path, 'old.pth')
    writer.flush()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    file_size_limit(max(size, 1))
    writer.save(checkpoint, tmp_path / 'new.pth')
    writer.then(write_last_checkpoint, tmp_path, 'new.pth')
    writer.then(os.remove, tmp_path / 'old.pth')
    with pytest.raises(
        CheckpointWriteError,
        match=rf'{tmp_path}/new.pth was not written: OSError.*'
        rf'too large.* \d+ MiB are free in {tmp_path}\..* --resume',
    ):
        writer.flush()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    file_size_limit(None)
    writer.save(checkpoint, tmp_path / 'new.pth')  # once told, it is over
    writer.flush()
    assert (tmp_path / 'new.pth').exists()


@pytest.mark.parametrize('ask', ['check', 'flush'])
def test_what_is_queued_behind_a_failure_is_left_out_whenever_one_asks(writer, tmp_path, ask):
    """The writer's thread is held between the failure and what is queued behind it."""
    (tmp_path / 'file').touch()
    go_on = threading.Event()
    writer.save(dict(a=1), tmp_path / 'file/no_folder.pth')
    writer._thread.submit(go_on.wait)
    writer.then(os.remove, tmp_path / 'file')
    while writer._failure is None:
        time.sleep(0.001)
    threading.Timer(0.3, go_on.set).start()
    with pytest.raises(CheckpointWriteError, match='no_folder.pth was not written'):
        getattr(writer, ask)()
    go_on.wait()
    writer.flush()
    assert (tmp_path / 'file').exists()


def test_a_disk_that_is_full_ends_training_with_the_old_checkpoint(tmp_path, monkeypatch):
    real_write = files.WholeWrites.write

    def write(file, data):
        if 'iter_8.pth.' in file._raw.name and len(data) > 1000:
            file.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise file.error
        return real_write(file, data)

    monkeypatch.setattr(files.WholeWrites, 'write', write)
    with pytest.raises(CheckpointWriteError, match='iter_8.pth was not .*No space left on device'):
        make_runner(tmp_path).train()
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['iter_4.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_4.pth')
    monkeypatch.undo()
    make_runner(tmp_path, resume=True).train()
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == ['iter_16.pth', 'iter_20.pth']


def test_partial_writes_are_completed(tmp_path):
    class Raw:
        """Takes 3 bytes a time, as a system may."""

        written = b''

        def write(self, data):
            self.written += bytes(data[:3])
            return min(3, len(data))

    raw = Raw()
    assert files.WholeWrites(raw).write(b'0123456789') == 10
    assert raw.written == b'0123456789'


def test_an_interrupt_while_writing_leaves_the_old_file(tmp_path):
    (tmp_path / 'a').write_text('old')
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / 'a') as file:
        file.write(b'new')
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == ['a'] and (tmp_path / 'a').read_text() == 'old'


def test_the_reason_why_training_ended_is_not_hidden(tmp_path, monkeypatch):
    def train(runner):
        runner.checkpoint_writer.save(dict(a=1), tmp_path / 'a.pth')
        runner.checkpoint_writer.then(int, 'no number')
        return 1 / 0

    runner = make_runner(tmp_path)
    monkeypatch.setattr(Runner, 'train', train)
    logged = []
    monkeypatch.setattr(runner.logger, 'error', lambda message: logged.append(str(message)))
    with pytest.raises(ZeroDivisionError):
        runner.train()
    assert len(logged) == 1 and 'no number' in logged[0]
    assert (tmp_path / 'a.pth').exists()  # training that fails waits for what it saved


# Which checkpoint is resumed


def make_file(path, value=1.0):
    write_checkpoint(
        dict(state_dict=dict(a=torch.full((500,), value)), optimizer={}, message_hub={}, meta={}),
        path,
    )
    time.sleep(0.01)  # the file system's clock


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == 'flipped bit':
        data[data.index(torch.full((2,), 1.0).numpy().tobytes()) + 1000] ^= 4
    elif kind == 'zeros in the middle':
        data[700:1500] = bytes(800)
    else:
        data = data[: int(kind * len(data))]
    path.write_bytes(data)


KINDS = [0.0, 0.01, 0.5, 0.9, 0.999, 'flipped bit', 'zeros in the middle']


@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_recognised(tmp_path, kind):
    make_file(tmp_path / 'a.pth')
    check_whole(tmp_path / 'a.pth')
    assert zipfile.ZipFile(tmp_path / 'a.pth').testzip() is None
    damage(tmp_path / 'a.pth', kind)
    with pytest.raises(CheckpointError, match=f"'{tmp_path}/a.pth' .* bytes"):
        check_whole(tmp_path / 'a.pth')


@pytest.mark.parametrize('zipped', [True, False])
def test_whole_files_of_torch_are_whole(tmp_path, zipped):
    content = OrderedDict(a=torch.randn(1000), b=torch.empty(0), c=dict(d=[1, 'x']))
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    check_whole(tmp_path / 'a.pth')
    damage(tmp_path / 'a.pth', 0.9)
    with pytest.raises(CheckpointError):
        check_whole(tmp_path / 'a.pth')


@pytest.fixture
def run(tmp_path, caplog):
    """A work dir with iter_9, iter_10 and, written in between, the best; last named is iter_10."""
    for name in ('iter_9.pth', 'best_iter_9.pth', 'iter_10.pth'):
        make_file(tmp_path / name)
    torch.save(dict(state_dict={}, meta={}), tmp_path / 'inference_iter_10-01234567.pth')
    write_last_checkpoint(tmp_path, str(tmp_path / 'iter_10.pth'))
    return tmp_path


@pytest.fixture
def logged(monkeypatch):
    messages = []
    monkeypatch.setattr(
        'swin_ext.checkpoint.resume.print_log', lambda message, *_: messages.append(message)
    )
    return messages


def test_what_last_checkpoint_names_is_resumed(run, logged):
    assert checkpoint_to_resume(str(run)) == str(run / 'iter_10.pth')
    write_last_checkpoint(run, str(run / 'iter_9.pth'))
    assert checkpoint_to_resume(str(run)) == str(run / 'iter_9.pth')
    assert logged == []


@pytest.mark.parametrize('kind', [0.5, 'flipped bit', 'absent', 'another name', 'empty pointer'])
def test_the_newest_whole_one_takes_the_place_of_a_damaged_one(run, logged, kind):
    expected = run / 'best_iter_9.pth'
    if kind == 'absent':
        (run / 'iter_10.pth').unlink()
    elif kind in ('another name', 'empty pointer'):
        (run / 'last_checkpoint').write_text('' if kind == 'empty pointer' else '/no/iter_11.pth')
        expected = run / 'iter_10.pth'
    else:
        damage(run / 'iter_10.pth', kind)
    assert checkpoint_to_resume(str(run)) == str(expected)
    (message,) = logged
    assert str(expected) in message
    assert {'another name': 'iter_11.pth', 'empty pointer': "names ''"}.get(
        kind, 'iter_10.pth'
    ) in message


def test_without_last_checkpoint_the_newest_is_resumed(run, logged):
    (run / 'last_checkpoint').unlink()
    assert checkpoint_to_resume(str(run)) == str(run / 'iter_10.pth')


def test_no_whole_checkpoint(run):
    for path in run.glob('*iter_*[0-9].pth'):
        damage(path, 0.5)
    with pytest.raises(CheckpointError, match='(?s)has no whole checkpoint.*iter_10.pth.*iter_9'):
        checkpoint_to_resume(str(run))


def test_no_checkpoint_yet(tmp_path, logged):
    assert checkpoint_to_resume(str(tmp_path)) is None
    assert 'starts from the beginning' in logged[0]
    runner = make_runner(tmp_path, resume=True)
    runner.train()
    assert runner.iter == 20


def test_a_moved_work_dir_resumes_from_its_own_files(run, tmp_path):
    moved = run.rename(tmp_path.with_name('moved'))
    assert checkpoint_to_resume(str(moved)) == str(moved / 'iter_10.pth')


@pytest.mark.parametrize('resume', [True, False], ids=['--resume PATH', 'load_from'])
def test_a_damaged_file_that_was_asked_for_is_refused(run, resume):
    damage(run / 'iter_9.pth', 0.5)
    runner = make_runner(run, load_from=str(run / 'iter_9.pth'), resume=resume)
    with pytest.raises(CheckpointError, match=f"'{run}/iter_9.pth' .* bytes"):
        runner.train()


def test_training_falls_back_and_removes_what_a_killed_run_left(tmp_path):
    make_runner(tmp_path / 'whole', max_epochs=2).train()
    make_runner(tmp_path / 'cut', max_epochs=2).train()
    damage(tmp_path / 'cut/iter_20.pth', 0.5)
    (tmp_path / 'cut/iter_99.pth.saving').write_bytes(b'part')
    (tmp_path / 'cut/last_checkpoint.saving').write_bytes(b'part')
    make_runner(tmp_path / 'cut', max_epochs=2, resume=True).train()
    assert not list(tmp_path.glob('cut/*.saving'))
    whole, cut = (
        load_checkpoint_file(tmp_path / name / 'iter_20.pth') for name in ('whole', 'cut')
    )
    assert_same(cut['state_dict'], whole['state_dict'])


# The periodic hook


def names(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def test_periodic_checkpoints_are_kept_as_asked_also_by_a_resumed_run(tmp_path):
    make_runner(tmp_path).train()
    assert names(tmp_path) == ['iter_16.pth', 'iter_20.pth']
    make_file(tmp_path / 'iter_3.pth')  # not of this hook
    make_runner(tmp_path, resume=True, max_epochs=3).train()
    assert names(tmp_path) == ['iter_28.pth', 'iter_3.pth', 'iter_30.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_30.pth')


def test_periodic_checkpoints_by_epoch(tmp_path):
    make_runner(
        tmp_path,
        max_epochs=3,
        checkpoint=dict(type='AtomicCheckpointHook', interval=1, max_keep_ckpts=1),
    ).train()
    assert names(tmp_path) == ['epoch_3.pth']


def test_the_last_one_is_published_whole(tmp_path):
    make_runner(
        tmp_path,
        checkpoint=dict(
            type='AtomicCheckpointHook', by_epoch=False, interval=20, published_keys=['state_dict']
        ),
    ).train()
    (published,) = tmp_path.glob('iter_20-*.pth')
    assert set(torch.load(published)) == {'state_dict'}


def test_the_oldest_is_deleted_only_after_the_newest_is_whole(tmp_path, monkeypatch):
    seen = []

    def write(checkpoint, path):
        seen.append(names(tmp_path))
        write_checkpoint(checkpoint, path)

    monkeypatch.setattr(checkpoint_writer, 'write_checkpoint', write)
    make_runner(
        tmp_path,
        checkpoint=dict(type='AtomicCheckpointHook', by_epoch=False, interval=5, max_keep_ckpts=1),
    ).train()
    assert seen == [[], ['iter_5.pth'], ['iter_10.pth'], ['iter_15.pth']]
    assert names(tmp_path) == ['iter_20.pth']


def test_what_a_killed_run_had_still_to_delete_is_deleted_by_the_next(tmp_path, monkeypatch):
    hook = dict(type='AtomicCheckpointHook', by_epoch=False, interval=5, max_keep_ckpts=1)
    monkeypatch.setattr('swin_ext.engine.hooks.AtomicCheckpointHook._remove', lambda *_: None)
    make_runner(tmp_path, checkpoint=hook, max_epochs=1).train()
    assert names(tmp_path) == ['iter_10.pth', 'iter_5.pth']
    monkeypatch.undo()
    make_runner(tmp_path, checkpoint=hook, max_epochs=2, resume=True).train()
    assert names(tmp_path) == ['iter_20.pth']


@pytest.mark.parametrize(
    'kwargs, runner_type, message',
    [
        (
            dict(type='AtomicCheckpointHook', save_best='toy/loss'),
            None,
            r"type='BestCheckpointHook', metric='toy/loss'",
        ),
        (dict(type='AtomicCheckpointHook', interval=5), Runner, "runner_type='SwinExtRunner'"),
    ],
)
def test_wrong_use_of_the_periodic_hook(tmp_path, kwargs, runner_type, message):
    options = dict(runner_type=runner_type) if runner_type else {}
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path, checkpoint=kwargs, **options).train()
