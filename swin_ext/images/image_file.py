"""What the readers of all formats give: an opened file, or an error that names it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swin_ext.utils.errors import UserError

# Headers may promise anything. No cardiac MR image comes near the first, no study the second.
MAX_PIXELS = 2**24  # of an image: 4096 x 4096
MAX_STACK_PIXELS = 2**28  # of all slices of a frame: 1 GiB


class ImageReadError(UserError, ValueError):
    """An image file is damaged, of an unknown format, or does not hold what was asked for."""


class ImageNotFoundError(UserError, FileNotFoundError):
    """There is no such image file."""


@dataclass(frozen=True)
class Content:
    """The bytes of a file, or bytes that came from elsewhere.

    Attributes:
        name: What errors call it.
        path: The file, unless there are `data`.
        data: The bytes, if they are no local file.
    """

    name: str
    path: Path | None = None
    data: bytes | None = None

    @property
    def size(self) -> int:
        """In bytes."""
        return os.path.getsize(self.path) if self.data is None else len(self.data)

    def read(self, start: int = 0, count: int | None = None) -> bytes:
        """Return `count` bytes from `start` on, less where the content ends before."""
        if self.data is not None:
            return self.data[start : None if count is None else start + count]
        with open(self.path, 'rb') as file:
            file.seek(start)
            return file.read(-1 if count is None else count)


@dataclass(frozen=True)
class ImageFile:
    """An opened file; pixels are decoded when asked for.

    Attributes:
        name: The path, or what is said of bytes.
        num_slices: Positions in space.
        num_frames: Positions in time.
        is_display: Whether the pixels are 8-bit grey levels, which need no window to be shown:
            PNG and JPEG of 8 bits (whatever the values in them), and NumPy arrays of uint8.
        decode: Returns the pixels of a slice and a frame in modality units, of shape (H, W), or
            (H, W, 3) in the order blue, green, red.
    """

    name: str
    num_slices: int
    num_frames: int
    is_display: bool
    decode: Callable[[int, int], np.ndarray]

    def frame(self, slice_index: int | None = None, frame_index: int | None = None) -> np.ndarray:
        """Return one image; see `read_frame`."""
        pixels = self._decode(slice_index, frame_index)
        if pixels.ndim == 3:
            # Grey images are often stored as RGB.
            if not (pixels[..., :1] == pixels[..., 1:]).all():
                raise ImageReadError(
                    f'{self.name} has colours, but MR images are grey. Convert it to one channel.'
                )
            pixels = pixels[..., 0]
        with np.errstate(over='ignore'):  # reported below
            image = np.ascontiguousarray(pixels, np.float32)
        bad = image.size - np.count_nonzero(np.isfinite(image))
        if bad:
            raise ImageReadError(
                f'{self.name}, slice {slice_index or 0}, frame {frame_index or 0}: {bad} of '
                f'{image.size} pixels are NaN or infinite. Replace them, or leave the image out.'
            )
        return image

    def display(self, slice_index: int | None = None, frame_index: int | None = None) -> np.ndarray:
        """Return an image of 8 bits (`is_display`) as uint8 of shape (H, W, 3), in its colours."""
        pixels = self._decode(slice_index, frame_index)
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)

    def stack(self, frame_index: int | None = None) -> np.ndarray:
        """Return all slices of a frame, float32 of shape (slices, H, W)."""
        first = self.frame(0, frame_index)
        if self.num_slices * first.size > MAX_STACK_PIXELS:
            raise ImageReadError(
                f'{self.name} has {self.num_slices} slices of {first.size} pixels, more than can '
                f'be read at once ({MAX_STACK_PIXELS} pixels). It may be damaged.'
            )
        return np.stack([first] + [self.frame(z, frame_index) for z in range(1, self.num_slices)])

    def _decode(self, slice_index: int | None, frame_index: int | None) -> np.ndarray:
        slice_index = self._check('slice_index', slice_index, self.num_slices, 'slices')
        frame_index = self._check('frame_index', frame_index, self.num_frames, 'frames')
        with naming(self.name):
            pixels = np.asarray(self.decode(slice_index, frame_index))
        if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
            raise ImageReadError(
                f'{self.name} holds an image of shape {pixels.shape}, not of (height, width).'
            )
        return pixels

    def _check(self, key: str, index: int | None, count: int, what: str) -> int:
        if index is None:
            if count > 1:
                raise ImageReadError(
                    f'{self.name} holds {count} {what}: say which one with {key}, 0 to {count - 1}.'
                )
            return 0
        if not 0 <= index < count:
            raise ImageReadError(
                f'{self.name}: {key} {index} is out of range; the file has '
                f'{count} {what}, 0 to {count - 1}.'
            )
        return int(index)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turn whatever fails inside into an `ImageReadError` about the file of this name.

    The packages that read the formats raise many types of errors on damaged files.
    """
    try:
        yield
    except (UserError, ImportError):
        raise
    except Exception as error:
        raise ImageReadError(
            f'{name} cannot be read, it may be truncated or damaged: '
            f'{type(error).__name__}: {error}'
        ) from error


def check_size(name: str, height: int, width: int) -> None:
    """Raise an `ImageReadError` if a header says a size that no image has."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageReadError(
            f'{name} is said to be of {width} x {height} px, which no MR image is (at most '
            f'{MAX_PIXELS} px). It may be damaged.'
        )
