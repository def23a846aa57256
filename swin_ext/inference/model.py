"""A trained model, ready for images: one interface, whatever file it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.images.preprocessing import Preprocessing, PreprocessingError
from swin_ext.inference.segmented_study import ModelIdentity
from swin_ext.utils.errors import UserError

PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
BATCH_SIZE = 8


class ModelError(UserError, ValueError):
    """A model file, a setting of it or an image that do not go together."""


@dataclass(frozen=True)
class Instances:
    """The objects of one image, by falling score.

    Args:
        labels: int64 (N,), indices of the model's `classes`.
        scores: float32 (N,).
        boxes: float32 (N, 4), x1, y1, x2, y2 in pixels of the image that was given.
        masks: bool (N, H, W), of the size of that image.
    """

    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: np.ndarray


class SegmentationModel(ABC):
    """Finds instances in images; made by `load_model`.

    Attributes:
        classes: Label i is `classes[i]`.
        identity: Name, hash, version and figures of the file; the score threshold in use.
        preprocessing: From pixels of source files in modality units to what the network takes. Of a
            model that was trained on converted PNG files, this includes the window of the
            conversion; `keep_8_bit` then says that such PNG files are taken as they are.
    """

    classes: tuple[str, ...]
    identity: ModelIdentity
    preprocessing: Preprocessing

    def predict(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """Find the instances in each image.

        Images are put into batches with others of their size alone, so what is found in one does
        not depend on the sizes of others.

        Args:
            images: Each (H, W), or (H, W, 3) where neighbours are shown beside the image
                (`preprocessing.channels` is 'slices' or 'frames'; the image itself is in the
                middle). Either float in modality units, as `images.reading.read_frame` returns, to
                which `preprocessing` is applied; or uint8, grey levels that were made with
                `preprocessing.grey_levels(...)` before. A model with the window 'study' takes
                the latter alone: `limits` for them come from all slices of a phase, as
                `preprocessing.limits(stack)`.

        Returns:
            In the order of `images`.

        Raises:
            PreprocessingError: If a float image needs a window and `preprocessing` has none, or the
                window is that of a study.
            ModelError: If an image has another shape or type.
        """
        prepared = [self._channels(image) for image in images]
        groups = defaultdict(list)
        for index, image in enumerate(prepared):
            groups[image.shape].append(index)
        found = {}
        for indices in groups.values():
            for start in range(0, len(indices), BATCH_SIZE):
                batch = indices[start : start + BATCH_SIZE]
                found.update(zip(batch, self._predict_batch([prepared[i] for i in batch])))
        return [found[index] for index in range(len(prepared))]

    @abstractmethod
    def _predict_batch(self, images: list[np.ndarray]) -> list[Instances]:
        """Instances of grey levels (H, W, 3), uint8 or float32, all of one shape."""

    def _channels(self, image: np.ndarray) -> np.ndarray:
        """Grey levels (H, W, 3) of an image as `predict` takes them."""
        image = np.asarray(image)
        repeats = self.preprocessing.channels == 'repeat'
        if image.ndim == 2 and repeats:
            image = image[..., None]
        elif image.ndim != 3 or image.shape[2] != 3:
            raise ModelError(
                f'{self.identity.name} takes images (H, W{"" if repeats else ", 3"}), not of shape '
                f'{image.shape}; its preprocessing has channels={self.preprocessing.channels!r}.'
            )
        if image.dtype != np.uint8:
            if not np.issubdtype(image.dtype, np.floating):
                raise ModelError(
                    f'{self.identity.name} was given an image of type {image.dtype}: give pixels '
                    'in modality units as float32, or grey levels as uint8.'
                )
            image = self._levels(image)
        return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image)

    def _levels(self, image: np.ndarray) -> np.ndarray:
        asked = self.preprocessing
        if asked.window == 'study':
            raise PreprocessingError(
                f"{self.identity.name} has the window 'study', for which one image is not enough. "
                'Give grey levels: preprocessing.grey_levels(image, limits=preprocessing.limits('
                'stack)) with all slices of the phase.'
            )
        # Each channel by its own window, as `LoadCMRImage` does.
        planes = [
            asked.grey_levels(plane, is_display=_is_display(plane, asked))
            for plane in np.moveaxis(image, -1, 0)
        ]
        return np.stack(planes, axis=-1)


def _is_display(plane: np.ndarray, preprocessing: Preprocessing) -> bool:
    """Whether pixels without a window may be grey levels of 8 bits."""
    return preprocessing.window is None and 0 <= plane.min() and plane.max() <= 255


def load_model(
    path: str | Path | None = None,
    device: str = 'auto',
    precision: str = 'auto',
    score_threshold: float | None = None,
    nms_threshold: float | None = None,
) -> SegmentationModel:
    """Load a model for inference from the one file that holds all of it.

    Args:
        path: `inference_*.pth` or another checkpoint of this package's runs; `.safetensors`
            that `tools/pack_model.py` wrote; `.onnx` that `tools/export_onnx.py` wrote, which needs
            neither torch nor mmdet; None is the model in the box, `swin_ext://cmr-nano`.
        device: 'auto' takes a GPU if there is one; 'cpu', 'cuda', 'cuda:1'.
        precision: Of the network: 'fp32', 'bf16' or 'fp16'. 'auto' is fp32 on a CPU and fp16 on
            a GPU.
        score_threshold: Instances below are left out, before their masks are made. None is what
            the model was validated with.
        nms_threshold: Of two boxes of a class that overlap by more than this (intersection over
            union), the lower-scored one is left out. None is what the model was validated with.

    Returns:
        A model in evaluation mode.

    Raises:
        ModelError: If the file is no such model, or a setting is impossible.
        WeightFileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or its tensors are not those of its config.
    """
    if precision not in PRECISIONS:
        raise ModelError(f'precision={precision!r} must be one of {PRECISIONS}.')
    if str(path).endswith('.onnx'):
        from swin_ext.inference.onnx_model import OnnxModel

        return OnnxModel(path, device, precision, score_threshold, nms_threshold)
    # Imported here, as a model in ONNX needs neither torch nor mmdet.
    from swin_ext.checkpoint.model_file import BOXED, read_model_file
    from swin_ext.inference.mmdet_model import MMDetModel

    file = read_model_file(BOXED if path is None else path)
    return MMDetModel(file, device, precision, score_threshold, nms_threshold)
