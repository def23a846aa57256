"""Numbers that come from the device while the host goes on."""

from __future__ import annotations

import torch
from torch import Tensor


class HostCopy:
    """Values on their way to the host, which asks for them later.

    `.item()` waits until the device has done all that it was given, and leaves it with nothing to
    do. This waits for the copy alone, which is long done if work was given to the device since.

    Args:
        values: (N,) or (), of any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.detach().to('cpu', non_blocking=True)  # into pinned memory
        self._copied = None
        if values.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def has_come(self) -> bool:
        return self._copied is None or self._copied.query()

    def read(self) -> list[float]:
        """The values, once they have come."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.reshape(-1).tolist()
