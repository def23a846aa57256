"""Loads a cardiac MR image of any file format as the three channels that detectors expect."""

from __future__ import annotations

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.registry import TRANSFORMS

from swin_ext.images.reading import (
    ImageFile,
    ImageReadError,
    apply_window,
    open_image,
    window_limits,
)

WINDOWS = (None, 'slice', 'study')
CHANNELS = ('repeat', 'slices', 'frames')
PNG_8_BIT = slice(24, 25)  # where a PNG says its bit depth


@TRANSFORMS.register_module()
class LoadCMRImage(BaseTransform):
    """Load PNG, DICOM, NIfTI or `.npy`; takes the place of `LoadImageFromFile`.

    A file with several images is read at the `slice_index` and `frame_index` of the image's entry
    in the COCO file. Where each slice is a file of its own, `CMRDataset` finds the neighbours by
    `patient_id`, `slice`, `phase` and `frame`. An 8-bit PNG without `window` gives the very array
    that `LoadImageFromFile` gives.

    Required keys: img_path; optional: slice_index, frame_index, slice, stack, frame, cine.
    Added keys: img of shape (H, W, 3), img_shape, ori_shape.

    Args:
        window: Grey levels are set by percentiles of the image itself ('slice') or of all slices
            of the patient at that time ('study'), which keeps their relative brightness. None
            takes 8-bit PNG and `.npy` as they are; other files need a window.
        percentiles: Which percentiles become 0 and 255.
        channels: 'repeat' shows the image in all three; 'slices' the slices z - 1, z, z + 1
            ("2.5-D"); 'frames' the frames t - 1, t, t + 1. What does not exist, at the end of the
            stack for example, is replaced by the image itself.
        to_float32: Return float32 in 0..255 without rounding, else uint8.
        backend_args: Of mmengine's file backend. Local files are opened in place, so that only
            the wanted part of an uncompressed NIfTI or NumPy file is read.

    Raises:
        ValueError: If an argument is none of the above, or a file needs a window and has none.
        ImageReadError, FileNotFoundError, ImportError: As `read_frame`.
    """

    def __init__(
        self,
        window: str | None = None,
        percentiles: tuple[float, float] = (1.0, 99.0),
        channels: str = 'repeat',
        to_float32: bool = False,
        backend_args: dict | None = None,
    ):
        if window not in WINDOWS:
            raise ValueError(f'LoadCMRImage: window={window!r} must be one of {WINDOWS}.')
        if channels not in CHANNELS:
            raise ValueError(f'LoadCMRImage: channels={channels!r} must be one of {CHANNELS}.')
        lower, upper = percentiles
        if not 0 <= lower < upper <= 100:
            raise ValueError(
                f'LoadCMRImage: percentiles={percentiles} must be two rising numbers from 0 to 100.'
            )
        self.window = window
        self.percentiles = tuple(percentiles)
        self.channels = channels
        self.to_float32 = to_float32
        self.backend_args = backend_args
        self._study_limits = {}

    @property
    def needs_neighbours(self) -> bool:
        """Whether the data set should say which other images show the same patient."""
        return self.window == 'study' or self.channels != 'repeat'

    def transform(self, results: dict) -> dict:
        """Load `results['img_path']`."""
        image = self._load_png_as_is(results) if self.window is None else None
        if image is None:
            image = self._load(results)
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _load_png_as_is(self, results: dict) -> np.ndarray | None:
        """Decode an 8-bit PNG right into three channels; None if it takes more than that."""
        path = results['img_path']
        if self.channels != 'repeat' or not path.lower().endswith('.png'):
            return None
        data = self._backend(path).get(path)
        image = (
            mmcv.imfrombytes(data, flag='color', backend='cv2')
            if data[PNG_8_BIT] == b'\x08'
            else None
        )
        return image if image is None or not self.to_float32 else image.astype(np.float32)

    def _load(self, results: dict) -> np.ndarray:
        here = (results['img_path'], results.get('slice_index'), results.get('frame_index'))
        file = self._open(here[0])
        references = self._channel_references(here, file, results)
        opened = {here[0]: file}
        planes = {}
        for reference in references:
            if reference in planes:
                continue
            path = reference[0]
            if path not in opened:
                opened[path] = self._open(path)
            planes[reference] = self._grey_levels(opened[path], reference, results)
            if planes[reference].shape != planes[references[0]].shape:
                raise ImageReadError(
                    f'{path} has shape {planes[reference].shape}, but {references[0][0]}, which '
                    f'is shown with it, {planes[references[0]].shape}.'
                )
        image = np.stack([planes[reference] for reference in references], axis=-1)
        return image if self.to_float32 else np.rint(image).astype(np.uint8)

    def _channel_references(self, here: tuple, file: ImageFile, results: dict) -> list[tuple]:
        """Path, slice_index and frame_index of each channel."""
        if self.channels == 'repeat':
            return [here] * 3
        path, z, t = here
        if self.channels == 'slices' and file.num_slices > 1 and z is not None:
            return [(path, i if 0 <= i < file.num_slices else z, t) for i in (z - 1, z, z + 1)]
        if self.channels == 'frames' and file.num_frames > 1 and t is not None:
            return [(path, z, i if 0 <= i < file.num_frames else t) for i in (t - 1, t, t + 1)]
        position, series = ('slice', 'stack') if self.channels == 'slices' else ('frame', 'cine')
        if series not in results:
            raise ValueError(
                f"{path}: channels='{self.channels}' needs a file with several {self.channels}, or "
                f'patient_id and a whole number "{position}" in the image\'s entry in the COCO '
                'file, read by CMRDataset.'
            )
        number, others = results[position], dict(results[series])
        return [others.get(number + step, here) if step else here for step in (-1, 0, 1)]

    def _grey_levels(self, file: ImageFile, reference: tuple, results: dict) -> np.ndarray:
        """Pixels of one channel, float32 in 0..255, shape (H, W)."""
        image = file.frame(*reference[1:])
        if self.window == 'study':
            return 255 * apply_window(image, *self._limits_of_study(file, reference, results))
        if self.window == 'slice':
            return 255 * apply_window(image, *window_limits(image, *self.percentiles))
        if not file.is_display:
            raise ValueError(
                f'{file.name} has values from {image.min():g} to {image.max():g}, which are no '
                "8-bit grey levels. Set window='slice' or window='study' of LoadCMRImage."
            )
        return image

    def _limits_of_study(
        self, file: ImageFile, reference: tuple, results: dict
    ) -> tuple[float, float]:
        path, _, t = reference
        if file.num_slices > 1:
            key = (path, t)
        elif 'stack' in results:
            key = results['stack'][0][1]
        else:
            raise ValueError(
                f"{path}: window='study' needs a file with several slices, or "
                'patient_id and a whole number "slice" in the image\'s entry in the '
                'COCO file, read by CMRDataset.'
            )
        if key not in self._study_limits:
            pixels = (
                file.stack(t)
                if file.num_slices > 1
                else np.concatenate(
                    [self._open(p).frame(*indices).ravel() for _, (p, *indices) in results['stack']]
                )
            )
            self._study_limits[key] = window_limits(pixels, *self.percentiles)
        return self._study_limits[key]

    def _open(self, path: str) -> ImageFile:
        backend = self._backend(path)
        return (
            open_image(path)
            if isinstance(backend, LocalBackend)
            else open_image(backend.get(path), name=path)
        )

    def _backend(self, path: str):
        return get_file_backend(path, backend_args=self.backend_args, enable_singleton=True)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(window={self.window!r}, percentiles={self.percentiles}, '
            f'channels={self.channels!r}, to_float32={self.to_float32}, '
            f'backend_args={self.backend_args})'
        )
