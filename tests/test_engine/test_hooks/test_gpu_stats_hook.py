"""NVML is replaced by a module of two GPUs with known values."""

import os
import re
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from swin_ext.engine import hooks
from swin_ext.engine.hooks import GPUStatsHook, device_stats, gpu_stats_hook
from swin_ext.engine.hooks.device_stats import CPUReader, GPUReader, Sampler
from swin_ext.engine.hooks.gpu_stats_hook import summarise
from toy_watched_run import Numbers, make_runner
from two_ranks import log_of, run_on_two_ranks

GIB = 2**30


class NVMLError(Exception):
    def __init__(self, value):
        super().__init__(f'NVML error {value}')
        self.value = value


class FakeNVML(types.ModuleType):
    """Two GPUs by PCI address; `fail_from` is the reading from which on the driver is lost."""

    NVMLError = NVMLError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_TEMPERATURE_GPU = 0
    uuids = ['GPU-aaaa-1111', 'GPU-bbbb-2222']

    def __init__(self, init_error=None, fail_from=None, unsupported=()):
        super().__init__('pynvml')
        self.init_error, self.fail_from, self.unsupported = init_error, fail_from, unsupported
        self.num_readings = 0

    def nvmlInit(self):
        if self.init_error:
            raise self.init_error

    def nvmlDeviceGetCount(self):
        return len(self.uuids)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self.uuids[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid not in [*self.uuids, 'MIG-cccc']:
            raise NVMLError(6)
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle.encode() if handle == self.uuids[0] else handle  # old and new releases

    def _value(self, name, handle, first, second):
        if name in self.unsupported:
            raise NVMLError(3)
        return first if handle == self.uuids[0] else second

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.num_readings += 1
        if self.fail_from is not None and self.num_readings >= self.fail_from:
            raise NVMLError(999)
        return types.SimpleNamespace(gpu=self._value('utilisation', handle, 93, 40), memory=7)

    def nvmlDeviceGetMemoryInfo(self, handle):
        used = self._value('memory', handle, 10 * GIB, 20 * GIB)
        return types.SimpleNamespace(total=80 * GIB, used=used, free=80 * GIB - used)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._value('temperature', handle, 61, 45)

    def nvmlDeviceGetPowerUsage(self, handle):
        return self._value('power', handle, 250_400, 99_600)  # mW


@pytest.fixture
def install_nvml(monkeypatch):
    """Install a fake NVML, and let PyTorch have two GPUs as far as the hook asks."""

    def install(nvml):
        monkeypatch.setitem(sys.modules, 'pynvml', nvml)
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        for name, function in dict(
            get_device_properties=lambda device: types.SimpleNamespace(),
            max_memory_allocated=lambda device: 6 * GIB,
            memory_reserved=lambda device: 8 * GIB,
        ).items():
            monkeypatch.setattr(torch.cuda, name, function)
        monkeypatch.setattr(gpu_stats_hook, 'device_of', lambda model: torch.device('cuda', 0))
        return nvml

    return install


@pytest.mark.parametrize(
    'visible, device, found',
    [
        (None, 1, 'GPU-bbbb-2222'),
        ('', 0, 'GPU-aaaa-1111'),
        ('1', 0, 'GPU-bbbb-2222'),
        ('1, 0', 1, 'GPU-aaaa-1111'),
        ('GPU-bbbb-2222', 0, 'GPU-bbbb-2222'),
        ('GPU-bb,GPU-aa', 1, 'GPU-aaaa-1111'),  # CUDA takes beginnings
        ('MIG-cccc', 0, 'MIG-cccc'),
    ],
)
def test_gpu_of_pytorch_in_nvml(install_nvml, monkeypatch, visible, device, found):
    nvml = install_nvml(FakeNVML())
    if visible is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    assert device_stats.find_nvml_handle(nvml, device) == found


def test_uuid_that_pytorch_tells_comes_before_the_order(install_nvml, monkeypatch):
    """CUDA puts the fastest GPU first, NVML the lowest PCI address."""
    nvml = install_nvml(FakeNVML())
    monkeypatch.setattr(
        torch.cuda,
        'get_device_properties',
        lambda device: types.SimpleNamespace(uuid=['bbbb-2222', 'aaaa-1111'][device]),
    )
    assert device_stats.find_nvml_handle(nvml, 0) == 'GPU-bbbb-2222'


def test_unknown_gpu(install_nvml, monkeypatch):
    nvml = install_nvml(FakeNVML())
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-dd')
    with pytest.raises(ValueError, match='CUDA_VISIBLE_DEVICES=GPU-dd has no GPU at position 0'):
        device_stats.find_nvml_handle(nvml, 0)


EXPECTED = {
    'gpu/util_percent': 93,
    'gpu/memory_used_mib': 10240,
    'gpu/temperature_c': 61,
    'gpu/power_w': 250.4,
}


@pytest.mark.parametrize(
    'unsupported, missing',
    [((), ()), (('power', 'utilisation'), ('gpu/power_w', 'gpu/util_percent'))],
)
def test_readings_of_a_gpu(install_nvml, unsupported, missing):
    install_nvml(FakeNVML(unsupported=unsupported))
    reader = GPUReader(0)
    assert reader.read() == {name: value for name, value in EXPECTED.items() if name not in missing}
    assert (reader.name, reader.total_mib) == ('GPU 0', 80 * 1024)


def test_readings_of_a_process():
    pytest.importorskip('psutil')
    start, used = time.perf_counter(), time.process_time()
    reader = CPUReader()
    while time.process_time() < used + 0.3:  # longer by the clock where others work, too
        pass
    values = reader.read()
    util = 100 * (time.process_time() - used) / (time.perf_counter() - start)
    statm = Path('/proc/self/statm')
    if not statm.exists():
        pytest.skip('compared with what Linux alone has')
    resident = int(statm.read_text().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 2**20
    assert values['cpu/rss_mib'] == pytest.approx(resident, rel=0.05)
    assert values['cpu/util_percent'] == pytest.approx(util, rel=0.2)
    meminfo = dict(line.split(':') for line in Path('/proc/meminfo').read_text().splitlines())
    total, free = (int(meminfo[name].split()[0]) for name in ('MemTotal', 'MemAvailable'))
    assert values['cpu/machine_memory_percent'] == pytest.approx(100 * (1 - free / total), abs=5)
    assert reader.total_mib == pytest.approx(total / 1024, rel=0.01)


class Readings:
    """Reads the given numbers in turn, then waits; an exception among them is raised."""

    name, total_mib = 'GPU 0', 80 * 1024

    def __init__(self, *values):
        self.values = list(values)
        self.exhausted = threading.Event()

    def read(self):
        if not self.values:
            self.exhausted.set()
            threading.Event().wait()  # a driver that hangs
        value = self.values.pop(0)
        if isinstance(value, Exception):
            raise value
        return {'gpu/util_percent': value}


def test_means_since_the_last_call():
    reader = Readings(10, 20, 60)
    sampler = Sampler([lambda: reader], interval_s=1e-3)
    assert sampler.take() == {}
    sampler.start()
    assert reader.exhausted.wait(5)
    assert sampler.take() == {'gpu/util_percent': 30}
    assert sampler.take() == {'gpu/util_percent': 60}  # the latest, as there is no new one
    assert sampler.failures == []


def test_the_next_reader_takes_over():
    second = Readings(5)

    def not_installed():
        raise ImportError("No module named 'pynvml'")

    sampler = Sampler([not_installed, lambda: Readings(1, NVMLError(999)), lambda: second], 1e-3)
    sampler.start()
    assert second.exhausted.wait(60)
    assert sampler.take() == {'gpu/util_percent': 5}  # nothing of the reader that failed
    assert len(sampler.failures) == 2
    assert sampler.failures[0].startswith(
        "ImportError: No module named 'pynvml' (pip install nvidia-ml-py). Training goes on"
    )
    assert 'NVML error 999. Training goes on' in sampler.failures[1]


def test_training_does_not_wait_for_a_driver_that_hangs(tmp_path, install_nvml, monkeypatch):
    install_nvml(FakeNVML())
    monkeypatch.setattr(GPUReader, 'read', lambda self: threading.Event().wait())
    waited = []
    monkeypatch.setattr(Sampler, 'join', lambda self, timeout: waited.append(timeout))
    runner = make_runner(tmp_path, hooks=[GPUStatsHook()])
    runner.train()
    assert 0 < sum(waited) < 8
    assert runner.iter == 8 and 'gpu/util_percent' not in log_of(runner)


class WaitForReading(Hook):
    """Makes sure of a reading before the first iteration is logged."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        (hook,) = (h for h in runner.hooks if isinstance(h, GPUStatsHook))
        end = time.perf_counter() + 10
        while not hook._sampler.latest and time.perf_counter() < end:
            time.sleep(0.01)


def read_events(runner):
    """TensorBoard's scalars: (step, value) pairs by tag."""
    events = EventAccumulator(str(Path(runner.log_dir) / 'vis_data'), size_guidance=dict(scalars=0))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()['scalars']
    }


def train_lines(runner):
    return [line for line in log_of(runner).splitlines() if '(train)' in line]


def test_values_in_log_line_and_event_file(tmp_path, install_nvml):
    install_nvml(FakeNVML())
    hook = GPUStatsHook(sample_interval_s=0.01)
    runner = make_runner(tmp_path, hooks=[WaitForReading(), hook])
    runner.train()
    events = read_events(runner)
    expected = {
        'gpu/util_percent': 93,
        'gpu/memory_used_mib': 10240,
        'gpu/temperature_c': 61,
        'gpu/power_w': 250,
        'gpu/memory_peak_mib': 6144,
        'gpu/memory_reserved_mib': 8192,
    }
    for tag, value in expected.items():
        assert events[tag] == [(step, value) for step in range(1, 9)]
        assert all(f'{tag}: {value}  ' in f'{line}  ' for line in train_lines(runner))
    for tag in ('samples_per_s', 'data_wait_percent'):
        # The first line is written before the first iteration has ended.
        assert [step for step, _ in events[tag]] == list(range(2, 9))
        assert all(f'{tag}: ' in line for line in train_lines(runner)[1:])
    assert hook.status() == 'GPU 0 93 % 10.0/80 GiB'
    assert not any(
        'device stats' in thread.name and thread.is_alive() and thread is hook._sampler
        for thread in threading.enumerate()
    )


@pytest.mark.parametrize(
    'nvml, error',
    [
        (None, 'ModuleNotFoundError|ImportError'),
        (FakeNVML(init_error=NVMLError(9)), 'NVML error 9'),
        (FakeNVML(fail_from=3), 'NVML error 999'),
    ],
    ids=['import', 'init', 'in the middle'],
)
def test_failing_nvml_is_warned_of_once(tmp_path, install_nvml, nvml, error):
    pytest.importorskip('psutil')
    install_nvml(nvml)  # None makes the import fail

    class UntilFallback(Hook):
        """Holds iteration 5 until the process is watched instead."""

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            end = time.perf_counter() + 10
            while (
                runner.iter == 4
                and time.perf_counter() < end
                and 'cpu/rss_mib' not in hook._sampler.latest
            ):
                time.sleep(0.01)

    hook = GPUStatsHook(sample_interval_s=0.01)
    runner = make_runner(tmp_path, hooks=[WaitForReading(), UntilFallback(), hook])
    runner.train()
    assert len(re.findall(f'GPUStatsHook: .*(?:{error}).*Training goes on', log_of(runner))) == 1
    last = train_lines(runner)[-1]
    assert 'cpu/rss_mib: ' in last and 'cpu/machine_memory_percent: ' in last
    assert 'gpu/util_percent' not in last  # and not its last value for ever
    assert 'gpu/memory_peak_mib: 6144' in last  # PyTorch still knows


def test_without_gpu_the_process_is_watched(tmp_path):
    pytest.importorskip('psutil')
    runner = make_runner(tmp_path, hooks=[WaitForReading(), GPUStatsHook()])
    runner.train()
    events = read_events(runner)
    assert {'cpu/util_percent', 'cpu/rss_mib', 'cpu/machine_memory_percent'} <= events.keys()
    assert not any(tag.startswith('gpu/') for tag in events)
    assert 'Training goes on' not in log_of(runner)


class Clock:
    """Time that passes when told so, to the hook alone."""

    def __init__(self):
        self.now = 0.0

    def __deepcopy__(self, memo):  # of the data set by the runner
        return self

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(gpu_stats_hook, 'time', clock)
    return clock


class SlowNumbers(Numbers):
    def __init__(self, seconds_per_batch, sleep, **kwargs):
        super().__init__(**kwargs)
        self.seconds, self.sleep = seconds_per_batch / 4, sleep

    def __getitem__(self, idx):
        self.sleep(self.seconds)
        return super().__getitem__(idx)


class SlowHook(Hook):
    """Takes its time after the iteration, as one that saves a checkpoint, and in validations."""

    priority = 'VERY_LOW'

    def __init__(self, seconds, sleep):
        self.seconds, self.sleep = seconds, sleep

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.sleep(self.seconds)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.sleep(10 * self.seconds)


@pytest.mark.parametrize('order', [1, -1], ids=['last', 'first'])
def test_throughput_and_share_of_waiting(tmp_path, clock, order):
    """1 s for the data of 4 samples, 3 s for the rest; validation counts as neither."""
    runner = make_runner(
        tmp_path,
        hooks=[SlowHook(3, clock.sleep), GPUStatsHook()][::order],
        val_interval=2,
        dataset=SlowNumbers(1, clock.sleep),
    )
    runner.train()
    events = read_events(runner)
    assert events['data_wait_percent'] == [(step, 25) for step in range(2, 9)]
    assert events['samples_per_s'] == [(step, 1) for step in range(2, 9)]
    assert clock.now == 8 * (1 + 3) + 4 * 4 * 30


@pytest.mark.parametrize('seconds, warns', [(1.1, True), (0.9, False)])
def test_starving_is_warned_of_once_with_advice(tmp_path, clock, seconds, warns):
    hook = GPUStatsHook(wait_warning_percent=50, wait_window=3)
    runner = make_runner(
        tmp_path, hooks=[SlowHook(1, clock.sleep), hook], dataset=SlowNumbers(seconds, clock.sleep)
    )
    runner.train()
    found = re.findall(
        r'(\d+) % of the time of the last 3 iterations was spent waiting for data, '
        r'with num_workers=0 .*train_dataloader.num_workers=4',
        log_of(runner),
    )
    assert found == ['52'] * warns


def test_checkpoints_do_not_keep_what_the_device_did(tmp_path):
    pytest.importorskip('psutil')
    make_runner(tmp_path, hooks=[WaitForReading(), GPUStatsHook()]).train()
    saved = torch.load(tmp_path / 'iter_8.pth', weights_only=False)['message_hub']
    for part in ('log_scalars', 'resumed_keys'):
        assert 'train/loss' in saved[part]
        assert not any('cpu/' in key or 'samples_per_s' in key for key in saved[part])
    assert 'device_status' not in saved['runtime_info']


def test_no_hook_that_takes_time_comes_as_late():
    """So that it does not depend on the order of a list what counts as waiting for data."""
    last = [name for name in hooks.__all__ if getattr(hooks, name).priority == 'LOWEST']
    assert last == ['GPUStatsHook', 'PreemptionHook']  # takes time where it ends a run, alone


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(sample_interval_s=0), 'sample_interval_s=0 must be above 0'),
        (dict(wait_window=0), 'wait_window=0 must be at least 1'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GPUStatsHook(**arguments)


def rank_values(iter_s, wait, used, **more):
    return {
        'iter_s': iter_s,
        'samples_per_s': 4 / iter_s,
        'data_wait_percent': wait,
        'gpu/memory_used_mib': used,
        **more,
    }


def test_summary_of_ranks():
    ranks = [
        rank_values(0.5, 5, 900, **{'gpu/util_percent': 90, 'gpu/temperature_c': 50}),
        rank_values(1.0, 1, 700, **{'gpu/util_percent': 50, 'gpu/temperature_c': 70}),
    ]
    assert summarise(ranks) == {
        'samples_per_s': 12,
        'data_wait_percent': 5,
        'gpu/memory_used_mib': 900,
        'gpu/util_percent': 70,
        'gpu/temperature_c': 70,
        'slowest_rank': 1,
        'fullest_rank': 0,
    }


def test_of_ranks_in_lock_step_the_one_that_waits_for_data_is_the_slowest():
    ranks = [rank_values(1.0, 2, 700), rank_values(0.95, 60, 900), rank_values(0.8, 70, 800)]
    assert summarise(ranks)['slowest_rank'] == 1


def train_rank(rank, folder):
    """Rank 1 reads its data slowly; the other waits for its gradients."""
    readings = [dict(used=300, util=80), dict(used=500, util=20)][rank]
    device_stats.CPUReader.read = lambda self: {
        'cpu/rss_mib': readings['used'],
        'cpu/util_percent': readings['util'],
    }
    hook = GPUStatsHook(sample_interval_s=0.01, wait_window=3)
    runner = make_runner(
        folder / 'work_dir',
        hooks=[WaitForReading(), hook],
        launcher='pytorch',
        dataset=SlowNumbers(0.6 * rank, time.sleep, num_samples=32),
    )
    runner.train()
    if rank == 0:
        return dict(log=log_of(runner), events=read_events(runner))


def test_values_of_all_ranks(tmp_path):
    pytest.importorskip('psutil')
    first, second = run_on_two_ranks(train_rank, tmp_path)
    assert second is None
    events = {tag: dict(points) for tag, points in first['events'].items()}
    for step in range(2, 9):
        assert events['rank0/cpu/rss_mib'][step] == 300
        assert events['rank1/cpu/rss_mib'][step] == events['cpu/rss_mib'][step] == 500
        assert events['cpu/util_percent'][step] == 50
        assert events['fullest_rank'][step] == 1
        assert events['rank1/data_wait_percent'][step] > events['rank0/data_wait_percent'][step]
        total = sum(events[f'rank{rank}/samples_per_s'][step] for rank in (0, 1))
        assert events['samples_per_s'][step] == pytest.approx(total, rel=1e-5)
    assert sum(events['slowest_rank'].values()) >= 5  # of 7; a single step may be disturbed
    for line in [line for line in first['log'].splitlines() if '(train)' in line][1:]:
        assert 'slowest_rank: ' in line and 'fullest_rank: 1' in line
    assert len(re.findall(r'Rank 1 \(.+\): \d+ % of the time of the last 3', first['log'])) == 1
