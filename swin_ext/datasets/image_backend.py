"""Lets mmdet's own loaders of image files read what `LoadCMRImage` reads."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from mmengine.fileio import BaseStorageBackend, register_backend

from swin_ext.images.image_file import ImageFile
from swin_ext.images.preprocessing import Preprocessing, PreprocessingError
from swin_ext.images.reading import open_image


class CMRImageBackend(BaseStorageBackend):
    """Gives an image file of any format that `images.reading` opens as one that OpenCV decodes.

    mmdet's `DetInferencer` and `inference_detector` insist on `LoadImageFromFile` at the beginning
    of the test pipeline. With these `backend_args` and `color_type='unchanged'` it loads grey
    levels by the preprocessing that a model was trained with:

        dict(type='LoadImageFromFile', color_type='unchanged',
             backend_args=dict(backend='CMRImageBackend', preprocessing=dict(...)))

    Args:
        preprocessing: What `Preprocessing.to_dict` gave.
    """

    def __init__(self, preprocessing: Mapping):
        self.preprocessing = Preprocessing.from_dict(preprocessing)

    def get(self, filepath: str) -> bytes:
        """Return three channels without loss: a bitmap of uint8, or TIFF of float32.

        Raises:
            PreprocessingError: If one image is not enough, as it is to be shown with its
                neighbours, or by the window of its study.
            ImageReadError: If the file cannot be read, or holds several images.
        """
        levels = self._levels(open_image(filepath))
        return cv2.imencode('.bmp' if levels.dtype == np.uint8 else '.tiff', levels)[1].tobytes()

    def _levels(self, file: ImageFile) -> np.ndarray:
        asked = self.preprocessing
        if asked.channels != 'repeat':
            raise PreprocessingError(
                f'{file.name}: the model looks at an image with its neighbours '
                f'(channels={asked.channels!r}), which one file does not show. Use '
                'swin_ext.inference.load_model, or tools/segment.py.'
            )
        if asked.window is None and file.is_display:
            return asked.grey_levels(file.display(), is_display=True)
        if asked.window == 'study' and asked.uses_window(file.is_display):
            raise PreprocessingError(
                f"{file.name}: the model's images were windowed by their whole study, which one "
                'file does not show. Use swin_ext.inference.load_model, or tools/segment.py.'
            )
        try:
            levels = asked.grey_levels(file.frame(), is_display=file.is_display)
        except PreprocessingError as error:
            raise PreprocessingError(f'{file.name}: {error}') from None
        return np.repeat(levels[..., None], 3, axis=-1)

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        raise NotImplementedError('Images are no text.')


register_backend('CMRImageBackend', CMRImageBackend, force=True)
