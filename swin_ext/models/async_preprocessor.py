"""A data preprocessor that the host need not wait for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class AsyncDetDataPreprocessor(DetDataPreprocessor):
    """`DetDataPreprocessor` whose copies to the GPU are asynchronous; its values are the same.

    Upstream turns BGR into RGB by an index, which goes to the GPU in a copy that waits for all
    that was given to it, the last update included: with images that were pinned
    (`train_dataloader.pin_memory`) nothing waits here.

    Args:
        args, kwargs: As of `DetDataPreprocessor`.
        non_blocking: False for copies that are waited for.
    """

    def __init__(self, *args: Any, non_blocking: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, non_blocking=non_blocking, **kwargs)
        self._swaps_channels, self._channel_conversion = self._channel_conversion, False

    def cast_data(self, data: Any) -> Any:
        """Copy to the device, and reverse the channels of what is then to be normalised."""
        cast = super().cast_data(data)
        if self._swaps_channels and isinstance(cast, Mapping) and 'inputs' in cast:
            inputs = cast['inputs']
            swapped = (
                inputs.flip(-3)
                if isinstance(inputs, Tensor)
                else type(inputs)(image.flip(-3) for image in inputs)
            )
            cast = {**cast, 'inputs': swapped}
        return cast
