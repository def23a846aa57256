"""Reads what a GPU, or this process on a CPU, is doing, from a thread beside the training."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import torch

from swin_ext.engine.errors import SettingError

MIB = 2**20


class GPUReader:
    """Reads one GPU through NVML (package nvidia-ml-py).

    Args:
        device: Its index among the GPUs that PyTorch sees.

    Raises:
        Exception: Of any kind, if NVML or the GPU cannot be reached.
    """

    def __init__(self, device: int):
        import pynvml

        self._nvml = pynvml
        pynvml.nvmlInit()
        self._handle = find_nvml_handle(pynvml, device)
        self.name = f'GPU {device}'
        self.total_mib = pynvml.nvmlDeviceGetMemoryInfo(self._handle).total / MIB

    def read(self) -> dict[str, float]:
        """Current values; those that this GPU does not offer (a MIG slice, for one) are left out.

        Raises:
            Exception: Of any kind, if NVML fails.
        """
        nvml, handle = self._nvml, self._handle
        queries = {
            'gpu/util_percent': lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            'gpu/memory_used_mib': lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used / MIB,
            'gpu/temperature_c': lambda: nvml.nvmlDeviceGetTemperature(
                handle, nvml.NVML_TEMPERATURE_GPU
            ),
            'gpu/power_w': lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,  # from mW
        }
        values = {}
        for name, query in queries.items():
            try:
                values[name] = query()
            except nvml.NVMLError as error:
                if getattr(error, 'value', None) != nvml.NVML_ERROR_NOT_SUPPORTED:
                    raise
        return values


class CPUReader:
    """Reads this process, without its data loading workers, and the machine's memory by psutil."""

    def __init__(self):
        import psutil

        self._psutil = psutil
        self._process = psutil.Process()
        self._process.cpu_percent()  # the first call only sets the start of the interval
        self.name = 'CPU'
        self.total_mib = psutil.virtual_memory().total / MIB

    def read(self) -> dict[str, float]:
        return {
            'cpu/util_percent': self._process.cpu_percent(),  # 100 for each core that is busy
            'cpu/rss_mib': self._process.memory_info().rss / MIB,
            'cpu/machine_memory_percent': self._psutil.virtual_memory().percent,
        }


def find_nvml_handle(nvml, device: int):
    """NVML's handle of the GPU that PyTorch calls `device`.

    NVML counts all GPUs in the order of their PCI addresses. PyTorch counts those of
    CUDA_VISIBLE_DEVICES, by default the fastest first, and since 2.4 it tells their UUIDs.

    Raises:
        SettingError: If CUDA_VISIBLE_DEVICES names no such GPU.
    """
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    entry = visible.split(',')[device].strip() if visible else str(device)
    if entry.startswith('MIG-'):
        return nvml.nvmlDeviceGetHandleByUUID(entry)
    uuid = getattr(torch.cuda.get_device_properties(device), 'uuid', None)
    if uuid is not None:
        return nvml.nvmlDeviceGetHandleByUUID(f'GPU-{uuid}')
    if entry.isdigit():
        return nvml.nvmlDeviceGetHandleByIndex(int(entry))
    handles = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    for handle in handles:
        uuid = nvml.nvmlDeviceGetUUID(handle)
        uuid = uuid.decode() if isinstance(uuid, bytes) else uuid  # releases before 11.5
        if uuid.startswith(entry):  # CUDA takes the first characters of a UUID, too
            return handle
    raise SettingError(
        f'CUDA_VISIBLE_DEVICES={visible} has no GPU at position {device} that NVML knows'
    )


class Sampler(threading.Thread):
    """Reads a device at an interval; where one reader fails, goes on with the next.

    Args:
        readers: Functions that make a reader, the preferred one first.
        interval_s: Seconds between two readings.

    Attributes:
        reader: The reader in use, None before the first is made.
        latest: What it read last, empty before.
        failures: Why readers were given up, not yet reported.
    """

    def __init__(self, readers: list[Callable], interval_s: float):
        super().__init__(name='swin_ext device stats', daemon=True)
        self._make_readers = list(readers)
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._samples = []
        self.reader = None
        self.latest = {}
        self.failures = []

    def run(self) -> None:
        while self._make_readers and not self._stopping.is_set():
            make_reader = self._make_readers.pop(0)
            try:
                self.reader = make_reader()
                self._sample_until_stopped()
            except Exception as error:  # whatever it is, the training is worth more
                self._give_up(make_reader, error)

    def _sample_until_stopped(self) -> None:
        while not self._stopping.is_set():
            values = self.reader.read()  # may hang in a driver: not under the lock
            with self._lock:
                self.latest = values
                self._samples.append(values)
            self._stopping.wait(self._interval_s)

    def _give_up(self, make_reader: Callable, error: Exception) -> None:
        with self._lock:
            self.latest = {}
            self._samples.clear()
        package = 'psutil' if make_reader is CPUReader else 'nvidia-ml-py'
        advice = f' (pip install {package})' if isinstance(error, ImportError) else ''
        instead = 'CPU and memory of the process are' if self._make_readers else 'nothing is'
        self.failures.append(
            f'{type(error).__name__}: {error}{advice}. Training goes on; from '
            f'here {instead} watched instead.'
        )

    def take(self) -> dict[str, float]:
        """Means of the readings since the last call, or the latest where there was none since."""
        with self._lock:
            samples, self._samples = self._samples, []
            samples = samples or ([self.latest] if self.latest else [])
        return {
            name: sum(sample[name] for sample in samples) / len(samples)
            for name in (samples[-1] if samples else ())
            if all(name in sample for sample in samples)
        }

    def stop(self) -> None:
        """End the thread, without waiting for a reading that hangs."""
        self._stopping.set()
        self.join(timeout=1)
