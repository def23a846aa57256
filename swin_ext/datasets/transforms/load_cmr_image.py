"""Loads a cardiac MR image of any file format as the three channels that detectors expect."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.registry import TRANSFORMS

from swin_ext.images.preprocessing import PERCENTILES, Preprocessing, PreprocessingError
from swin_ext.images.reading import ImageFile, ImageReadError, open_image


@TRANSFORMS.register_module()
class LoadCMRImage(BaseTransform):
    """Load PNG, JPEG, DICOM, NIfTI or `.npy`; takes the place of `LoadImageFromFile`.

    A file with several images is read at the `slice_index` and `frame_index` of the image's entry
    in the COCO file. Where each slice is a file of its own, `CMRDataset` finds the neighbours by
    `patient_id`, `slice`, `phase` and `frame`. An 8-bit PNG without `window` gives the very array
    that `LoadImageFromFile` gives.

    Required keys: img_path; optional: slice_index, frame_index, slice, stack, frame, cine.
    Added keys: img of shape (H, W, 3), img_shape, ori_shape.

    Args:
        window: Grey levels are set by percentiles of the image itself ('slice') or of all slices
            of the patient at that time ('study'), which keeps their relative brightness. None
            takes PNG, JPEG and `.npy` of 8 bits as they are; other files need a window.
        percentiles: Which percentiles become 0 and 255.
        channels: 'repeat' shows the image in all three; 'slices' the slices z - 1, z, z + 1
            ("2.5-D"); 'frames' the frames t - 1, t, t + 1. What does not exist, at the end of the
            stack for example, is replaced by the image itself.
        to_float32: Return float32 in 0..255 without rounding, else uint8.
        preprocessing: A `Preprocessing`, or what its `to_dict` gave, from an annotation file or a
            checkpoint for example. It takes the place of the arguments above.
        backend_args: Of mmengine's file backend. Local files are opened in place, so that only
            the wanted part of an uncompressed NIfTI or NumPy file is read.

    Attributes:
        preprocessing: The `Preprocessing` in use.

    Raises:
        PreprocessingError: If an argument is none of the above, or a file needs a window and has
            none.
        ImageReadError, ImageNotFoundError, MissingPackageError: As `read_frame`.
    """

    def __init__(
        self,
        window: str | None = None,
        percentiles: tuple[float, float] = PERCENTILES,
        channels: str = 'repeat',
        to_float32: bool = False,
        preprocessing: Preprocessing | Mapping | None = None,
        backend_args: dict | None = None,
    ):
        if preprocessing is None:
            rounding = None if to_float32 else 'nearest'
            try:
                preprocessing = Preprocessing(window, percentiles, channels, rounding)
            except PreprocessingError as error:
                raise PreprocessingError(f'LoadCMRImage: {error}') from None
        elif (window, percentiles, channels, to_float32) != (None, PERCENTILES, 'repeat', False):
            raise PreprocessingError(
                'LoadCMRImage: window, percentiles, channels and to_float32 are those of '
                '`preprocessing`. Leave one or the other out.'
            )
        elif not isinstance(preprocessing, Preprocessing):
            preprocessing = Preprocessing.from_dict(preprocessing)
        self.preprocessing = preprocessing
        self.backend_args = backend_args
        self._study_limits = {}

    @property
    def needs_neighbours(self) -> bool:
        """Whether the data set should say which other images show the same patient."""
        return self.preprocessing.window == 'study' or self.preprocessing.channels != 'repeat'

    def transform(self, results: dict) -> dict:
        """Load `results['img_path']`."""
        results['img'] = image = self._load(results)
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results

    def _load(self, results: dict) -> np.ndarray:
        here = (results['img_path'], results.get('slice_index'), results.get('frame_index'))
        file = self._open(here[0])
        asked = self.preprocessing
        if asked.window is None and asked.channels == 'repeat' and file.is_display:
            return asked.grey_levels(file.display(*here[1:]), is_display=True)
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
        return np.stack([planes[reference] for reference in references], axis=-1)

    def _channel_references(self, here: tuple, file: ImageFile, results: dict) -> list[tuple]:
        """Path, slice_index and frame_index of each channel."""
        channels = self.preprocessing.channels
        if channels == 'repeat':
            return [here] * 3
        path, z, t = here
        if channels == 'slices' and file.num_slices > 1 and z is not None:
            return [(path, i if 0 <= i < file.num_slices else z, t) for i in (z - 1, z, z + 1)]
        if channels == 'frames' and file.num_frames > 1 and t is not None:
            return [(path, z, i if 0 <= i < file.num_frames else t) for i in (t - 1, t, t + 1)]
        position, series = ('slice', 'stack') if channels == 'slices' else ('frame', 'cine')
        if series not in results:
            raise ValueError(
                f"{path}: channels='{channels}' needs a file with several {channels}, or "
                f'patient_id and a whole number "{position}" in the image\'s entry in the COCO '
                'file, read by CMRDataset.'
            )
        number, others = results[position], dict(results[series])
        return [others.get(number + step, here) if step else here for step in (-1, 0, 1)]

    def _grey_levels(self, file: ImageFile, reference: tuple, results: dict) -> np.ndarray:
        """Grey levels of one channel, shape (H, W)."""
        image = file.frame(*reference[1:])
        limits = (
            self._limits_of_study(file, reference, results)
            if self.preprocessing.uses_window(file.is_display)
            and self.preprocessing.window == 'study'
            else None
        )
        try:
            return self.preprocessing.grey_levels(image, limits=limits, is_display=file.is_display)
        except PreprocessingError as error:
            raise PreprocessingError(f'{file.name}: {error}') from None

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
            self._study_limits[key] = self.preprocessing.limits(pixels)
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
            f'{type(self).__name__}(preprocessing={self.preprocessing}, '
            f'backend_args={self.backend_args})'
        )
