"""A model in ONNX: onnxruntime alone, neither PyTorch nor mmdet."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from swin_ext.images.preprocessing import Preprocessing
from swin_ext.inference.model import Instances, ModelError, SegmentationModel
from swin_ext.inference.paste import paste_masks
from swin_ext.inference.segmented_study import ModelIdentity
from swin_ext.utils.hashes import sha256_of
from swin_ext.utils.optional import import_optional

METADATA_KEY = 'swin_ext'  # among the `metadata_props` of the file
INPUTS = ('images', 'size', 'score_threshold', 'nms_threshold')
OUTPUTS = ('image', 'labels', 'scores', 'boxes', 'masks')


@dataclass(frozen=True)
class OnnxSettings:
    """What goes with the graph; JSON in the metadata of the file.

    Attributes:
        classes: Label i is `classes[i]`.
        preprocessing: As of `Preprocessing.to_dict`.
        version: Of swin_ext when the model was written.
        figures: Of the validation.
        score_threshold: With which the model was validated.
        nms_threshold: Likewise.
        mask_threshold: Pixels of this probability or more belong to an object.
        image_scale: Images are made as large as fits into this rectangle, whichever way it lies.
        mean: Of each channel, subtracted; by `std` it is divided.
        rgb: Whether the network takes red, green, blue.
        pad_divisor: Images are padded to multiples of this, below and to the right.
    """

    classes: tuple[str, ...]
    preprocessing: dict
    version: str
    figures: dict[str, float]
    score_threshold: float
    nms_threshold: float
    mask_threshold: float
    image_scale: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    rgb: bool
    pad_divisor: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, name: str) -> OnnxSettings:
        """Read what `to_json` gave.

        Raises:
            ModelError: If it is of another version of this class.
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            raise ModelError(
                f'{name} was written by another version of swin_ext ({error}). Export it again.'
            ) from error


class OnnxModel(SegmentationModel):
    """Instances by onnxruntime, of a file that `tools/export_onnx.py` wrote.

    Args: as `load_model`.

    Raises:
        ModelError: If the file is no such model, or a setting is impossible here.
        MissingPackageError: If onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = 'auto',
        precision: str = 'auto',
        score_threshold: float | None = None,
        nms_threshold: float | None = None,
    ):
        path = Path(path).expanduser()
        if precision not in ('auto', 'fp32'):
            raise ModelError(f'{path.name} computes in fp32: precision={precision!r} is not in it.')
        self._session = open_session(path, device)
        metadata = self._session.get_modelmeta().custom_metadata_map
        if METADATA_KEY not in metadata:
            raise ModelError(f'{path} is no model that tools/export_onnx.py wrote.')
        settings = OnnxSettings.from_json(metadata[METADATA_KEY], str(path))
        self.settings = settings
        self.classes = tuple(settings.classes)
        self.preprocessing = Preprocessing.from_dict(settings.preprocessing)
        score, nms = (
            _share(name, settings_value if value is None else value)
            for name, value, settings_value in (
                ('score_threshold', score_threshold, settings.score_threshold),
                ('nms_threshold', nms_threshold, settings.nms_threshold),
            )
        )
        self._thresholds = dict(
            score_threshold=np.array([score], np.float32), nms_threshold=np.array([nms], np.float32)
        )
        self.identity = ModelIdentity(
            name=path.name,
            sha256=sha256_of(path),
            version=settings.version,
            score_threshold=score,
            figures=settings.figures,
        )

    def _predict_batch(self, images: list[np.ndarray]) -> list[Instances]:
        resized = [resize(image, self.settings.image_scale) for image in images]
        size, shape = resized[0].shape[:2], images[0].shape[:2]
        inputs = dict(images=self._normalised(resized), size=np.array(size, np.float32))
        owner, labels, scores, boxes, masks = self._run({**inputs, **self._thresholds})
        scale = np.array([size[1] / shape[1], size[0] / shape[0]] * 2, np.float32)
        boxes = boxes / scale
        found = []
        for index in range(len(images)):
            own = owner == index
            pasted = self._paste(masks[own], boxes[own], shape)
            found.append(Instances(labels[own], scores[own], boxes[own], pasted))
        return found

    def _run(self, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return self._session.run(OUTPUTS, inputs)

    def _paste(self, masks: np.ndarray, boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        return paste_masks(masks, boxes, shape, self.settings.mask_threshold)

    def _normalised(self, images: list[np.ndarray]) -> np.ndarray:
        """(B, 3, H, W), float32, padded with zeros."""
        settings = self.settings
        batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32)
        if settings.rgb:
            batch = batch[:, ::-1]
        mean, std = (
            np.array(values, np.float32)[:, None, None] for values in (settings.mean, settings.std)
        )
        batch = (batch - mean) / std
        beyond = [-length % settings.pad_divisor for length in batch.shape[2:]]
        return np.pad(batch, ((0, 0), (0, 0), (0, beyond[0]), (0, beyond[1])))


def resize(image: np.ndarray, scale: tuple[int, int]) -> np.ndarray:
    """Make an image (H, W, C) as large as fits; the size and the filter of `mmcv.imrescale`."""
    height, width = image.shape[:2]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    size = int(width * factor + 0.5), int(height * factor + 0.5)
    return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


def open_session(path: Path, device: str):
    """An `onnxruntime.InferenceSession`.

    Raises:
        ModelError: If the file cannot be read, or there is no such device.
    """
    onnxruntime = import_optional('onnxruntime', f'Using {path.name}')
    if not path.is_file():
        raise ModelError(f'There is no model file {path}.')
    offered = onnxruntime.get_available_providers()
    has_cuda = 'CUDAExecutionProvider' in offered
    if device.startswith('cuda') and not has_cuda:
        raise ModelError(f'device={device!r}, but this onnxruntime has only {", ".join(offered)}.')
    if device.startswith('cuda') or device == 'auto' and has_cuda:
        number = int(device.partition(':')[2] or 0)
        providers = [('CUDAExecutionProvider', dict(device_id=number)), 'CPUExecutionProvider']
    elif device in ('auto', 'cpu'):
        providers = ['CPUExecutionProvider']
    else:
        raise ModelError(f'device={device!r} is none: give auto, cpu or cuda:0.')
    options = onnxruntime.SessionOptions()
    if os.environ.get('OMP_NUM_THREADS', '').isdigit():  # as PyTorch and OpenCV do
        options.intra_op_num_threads = int(os.environ['OMP_NUM_THREADS'])
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # onnxruntime has many types of its own
        raise ModelError(f'{path} cannot be read as an ONNX model: {error}') from error


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ModelError(f'{name}={value} must be from 0 to 1.')
    return float(value)
