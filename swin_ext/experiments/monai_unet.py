"""What a user would take instead of a detector: a U-Net of MONAI, trained and tested by the same
runner, data sets and metrics."""

from __future__ import annotations

from typing import Any

from mmengine.registry import MODELS
from torch import Tensor

from swin_ext.engine.errors import SettingError
from swin_ext.experiments.pixel_classifier import PixelClassifier
from swin_ext.utils.optional import import_optional


@MODELS.register_module()
class MonaiUNet(PixelClassifier):
    """A 2-D network of MONAI as a semantic segmentation of classes and background.

    The loss of a network with deep supervision is the mean over its outputs with weights 1, 1/2,
    1/4, ... (as nnU-Net's, https://doi.org/10.1038/s41592-020-01008-z). For all else see
    `PixelClassifier`.

    Args:
        network: Name of a class of `monai.networks.nets` that takes `spatial_dims`, `in_channels`
            and `out_channels`: BasicUNet, DynUNet, UNet, AttentionUnet, ...
        num_classes: Without the background.
        network_args: Its other arguments.
        in_channels: Those of the images.
        data_preprocessor: `DetDataPreprocessor` that pads images and masks to what the network can
            halve.

    Raises:
        SettingError: If MONAI has no such network, or it does not take these arguments.
        MissingPackageError: If MONAI is not installed.
    """

    def __init__(
        self,
        network: str,
        num_classes: int,
        network_args: dict[str, Any] | None = None,
        in_channels: int = 3,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_classes, data_preprocessor, init_cfg)
        nets = import_optional('monai.networks.nets', 'MonaiUNet')
        if not isinstance(getattr(nets, network, None), type):
            raise SettingError(f'MonaiUNet: monai.networks.nets has no {network!r}.')
        arguments = dict(spatial_dims=2, in_channels=in_channels, out_channels=num_classes + 1)
        try:
            self.network = getattr(nets, network)(**arguments, **(network_args or {}))
        except (TypeError, ValueError) as error:
            raise SettingError(
                f'MonaiUNet: {network} does not take {network_args}: {error}'
            ) from error

    def logits(self, images: Tensor) -> Tensor:
        outputs = self.network(images)
        # With deep supervision, where a training mode asks for a prediction: (B, outputs, ...).
        return outputs[:, 0] if outputs.ndim == 5 else outputs

    def weighted_logits(self, images: Tensor) -> list[tuple[float, Tensor]]:
        logits = self.network(images)
        outputs = logits.unbind(1) if logits.ndim == 5 else [logits]
        weights = [0.5**number for number in range(len(outputs))]
        return [(weight / sum(weights), output) for weight, output in zip(weights, outputs)]
