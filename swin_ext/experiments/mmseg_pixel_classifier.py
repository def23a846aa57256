"""Segmentors of MMSegmentation beside detectors, with the same runner, data sets and metrics."""

from __future__ import annotations

from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional

from swin_ext.engine.errors import SettingError
from swin_ext.experiments.pixel_classifier import PixelClassifier
from swin_ext.utils.optional import import_optional

AUXILIARY_WEIGHT = 0.4  # in the configs of MMSegmentation, from PSPNet (arXiv:1612.01105)
OURS = ('num_classes', 'loss_decode')  # what heads do not say themselves


@MODELS.register_module()
class MmsegPixelClassifier(PixelClassifier):
    """An `EncoderDecoder` of MMSegmentation that is trained and tested like the U-Nets.

    Its logits, of a quarter of the image's size in each direction for UPerNet, are resized to that
    of the image before loss and prediction. The loss is that of the decode head plus 0.4 times that
    of the auxiliary head. For all else see `PixelClassifier`.

    Parts whose classes are of MMSegmentation are named by `type='mmseg.UPerHead'`: the scope of
    configs for these data sets is mmdet. Parameters are named `segmentor.backbone...`,
    `segmentor.decode_head...` and `segmentor.auxiliary_head...`.

    Args:
        backbone: Config of it.
        decode_head: Config of the head that predicts, without `num_classes` and `loss_decode`.
        num_classes: Without the background, for which the heads get one class more.
        auxiliary_head: Config of a head like `decode_head` that only adds to the loss.
        data_preprocessor: `DetDataPreprocessor` that pads images and masks to a multiple of the
            largest stride.

    Raises:
        SettingError: If a head has `num_classes` or `loss_decode`, or MMSegmentation cannot build
            it; in training, if batch norm of what a head pools to one pixel has one image.
        MissingPackageError: If MMSegmentation or MONAI is not installed.
    """

    def __init__(
        self,
        backbone: dict,
        decode_head: dict,
        num_classes: int,
        auxiliary_head: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(num_classes, data_preprocessor, init_cfg)
        # Registers its models; without ftfy and regex it cannot be imported either.
        import_optional('mmseg.models', 'MmsegPixelClassifier', 'mmsegmentation', 'ftfy', 'regex')
        heads = dict(decode_head=decode_head)
        if auxiliary_head is not None:
            heads.update(auxiliary_head=auxiliary_head)
        for name, head in heads.items():
            for key in OURS:
                if key in head:
                    raise SettingError(
                        f'MmsegPixelClassifier: {name}.{key} is not used. Remove it: num_classes '
                        'of the model is that of the heads, and its loss is DiceCELoss.'
                    )
        heads = {name: dict(head, num_classes=num_classes + 1) for name, head in heads.items()}
        try:
            self.segmentor = MODELS.build(
                dict(type='EncoderDecoder', _scope_='mmseg', backbone=backbone, **heads)
            )
        except (AssertionError, KeyError, TypeError, ValueError) as error:
            raise SettingError(
                f'MmsegPixelClassifier: EncoderDecoder of mmseg cannot be built: {error}'
            ) from error

    def logits(self, images: Tensor) -> Tensor:
        maps = self.segmentor.extract_feat(images)
        return _resized_logits(self.segmentor.decode_head, maps, images)

    def weighted_logits(self, images: Tensor) -> list[tuple[float, Tensor]]:
        maps = self.segmentor.extract_feat(images)
        try:
            outputs = [(1.0, _resized_logits(self.segmentor.decode_head, maps, images))]
        except ValueError as error:
            if 'Expected more than 1 value per channel' not in str(error):
                raise
            raise SettingError(
                'MmsegPixelClassifier: batch norm cannot be trained with one image, which the head '
                'pools to one pixel. Set train_dataloader.batch_size to 2 or more, and '
                'train_dataloader.drop_last=True.'
            ) from error
        if self.segmentor.with_auxiliary_head:
            auxiliary = _resized_logits(self.segmentor.auxiliary_head, maps, images)
            outputs.append((AUXILIARY_WEIGHT, auxiliary))
        return outputs


def _resized_logits(head: nn.Module, maps: list[Tensor], images: Tensor) -> Tensor:
    """(B, 1 + classes, H, W) of images (B, C, H, W), from the maps of a backbone."""
    return functional.interpolate(
        head(maps), images.shape[-2:], mode='bilinear', align_corners=head.align_corners
    )
